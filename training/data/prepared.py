"""Faces that `fer data prepare` wrote: aligned crops in tar shards, read like any labelled set.

prepared.json                          what it was made from, and how; written last
train-000000.tar  train-000001.tar     for each face KEY.png (or .webp) and KEY.json
missing.csv                            pictures without a face, and unreadable ones
"""

from __future__ import annotations

import dataclasses
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from fer_app.errors import DatasetError
from training.data.decoding import decode_picture
from training.data.face_index import FaceIndex
from training.data.ferplus_votes import VoteMode
from training.data.splits import PARTS, Part

NAME: Final = "prepared"
HEADER_NAME: Final = "prepared.json"
UNFINISHED_NAME: Final = "preparing.json"
MISSING_NAME: Final = "missing.csv"
FORMAT_VERSION: Final = 1


class Place(NamedTuple):
    """Where a crop's bytes lie."""

    shard: Path
    offset: int
    size: int


@dataclass(frozen=True, eq=False)
class PreparedFaces(FaceIndex):
    """Crops in shards, with their targets.

    Attributes:
        places: one a face.
        in_dev: for each face whether it belongs to `dev`, as in the set that it was prepared from.
    """

    places: tuple[Place, ...] = ()
    in_dev: tuple[bool, ...] = ()

    def subset(self, indices: torch.Tensor) -> Self:
        """Return the samples at `indices` (int64, (M,)), in that order."""
        rows = indices.tolist()
        return dataclasses.replace(
            self,
            names=tuple(self.names[i] for i in rows),
            targets=self.targets[indices],
            places=tuple(self.places[i] for i in rows),
            in_dev=tuple(self.in_dev[i] for i in rows),
        )

    @classmethod
    def joined(cls, parts: Sequence[PreparedFaces]) -> PreparedFaces:
        """Join parts of one set."""
        return dataclasses.replace(
            parts[0],
            names=tuple(name for part in parts for name in part.names),
            targets=torch.cat([part.targets for part in parts]),
            places=tuple(place for part in parts for place in part.places),
            in_dev=tuple(flag for part in parts for flag in part.in_dev),
        )

    def problems(self, *, decode: bool = True, threads: int | None = None) -> Iterator[str]:
        """Yield a sentence for each crop that cannot be decoded; that all are there was seen when they were listed."""
        if decode:
            yield from super().problems(threads=threads)

    def _read(self, index: int) -> NDArray[np.uint8] | str:
        place, name = self.places[index], self.names[index]
        try:
            with place.shard.open("rb") as file:
                file.seek(place.offset)
                pixels = decode_picture(file.read(place.size), "rgb")
        except OSError as error:
            return f"{place.shard}: {name}: {error}"
        return f"{place.shard}: the crop of {name} cannot be decoded" if pixels is None else pixels


def header_file(path: Path) -> Path | None:
    """Return the header of prepared faces, labelled or not, in a folder (or the header itself); None elsewhere."""
    file = path if path.name == HEADER_NAME else path / HEADER_NAME
    return file if file.is_file() else None


def read_header(file: Path) -> dict[str, Any]:
    """Read prepared.json.

    Raises:
        DatasetError: it is damaged, or of another version.
    """
    try:
        header = json.loads(file.read_text("utf-8"))
        version = header["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{file} cannot be read: {error!r}") from error
    if version != FORMAT_VERSION:
        raise DatasetError(f"{file} is of format version {version}; this program reads {FORMAT_VERSION}")
    return dict(header)


def find(path: Path) -> Path | None:
    """Return the folder of prepared faces with labels: `path`, or that of the header; None where there are none.

    Raises:
        DatasetError: the preparation is not finished, or the header is damaged.
    """
    if path.is_dir() and (path / UNFINISHED_NAME).is_file() and not (path / HEADER_NAME).is_file():
        raise DatasetError(f"{path}: `fer data prepare` has not finished here: run it again with --resume")
    file = header_file(path)
    return file.parent if file is not None and read_header(file).get("class_names") else None


def parts(base: Path) -> tuple[Part, ...]:
    """Return the parts that have faces.

    Raises:
        DatasetError: as `read_header`.
    """
    splits = read_header(base / HEADER_NAME)["splits"]
    return tuple(part for part in PARTS if splits.get(part, {}).get("faces"))


def read(base: Path, part: Part, mode: VoteMode = "majority") -> PreparedFaces:
    """List one part's faces; the crops are read when they are loaded.

    Args:
        base: as `find` returns it.
        part: one of `parts(base)`.
        mode: the vote rule; of FERPlus the majority was prepared, and nothing else can be had.

    Raises:
        DatasetError: the header or a shard is damaged, a shard is missing, or another vote rule is asked for.
    """
    header = read_header(base / HEADER_NAME)
    if mode != "majority" and header["source"]["data_set"].startswith("ferplus"):
        raise DatasetError(f"{base} was prepared with FERPlus's majority; for the votes {mode!r}, use FERPlus itself")
    class_names = tuple(header["class_names"])
    records: list[dict[str, Any]] = []
    places: list[Place] = []
    for shard in header["splits"][part]["shards"]:
        path = base / shard["file"]
        before = len(places)
        for record, place in _listed(path):
            records.append(record)
            places.append(place)
        if len(places) - before != shard["faces"]:
            raise DatasetError(f"{path} holds {len(places) - before} faces, {HEADER_NAME} says {shard['faces']}")
    try:
        return PreparedFaces(
            root=base,
            names=tuple(record["name"] for record in records),
            targets=torch.tensor([record["targets"] for record in records], dtype=torch.float32),
            class_names=class_names,
            places=tuple(places),
            in_dev=tuple(record["dev"] for record in records),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{base}: a face of {part} has no name, targets or dev: {error!r}") from error


def _listed(path: Path) -> Iterator[tuple[dict[str, Any], Place]]:
    """Yield what is said of each face of a shard and where its crop lies; the crops themselves are skipped."""
    place: Place | None = None
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.name.endswith(".json"):
                    place = Place(path, member.offset_data, member.size)
                    continue
                file = archive.extractfile(member)
                if file is None or place is None:
                    raise DatasetError(f"{path}: {member.name} has no crop before it")
                yield json.loads(file.read()), place
                place = None
    except (tarfile.TarError, OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def crop_note(data_set: str, base: Path, img_size: int) -> str | None:
    """Say how far the faces of a set are the crops that serving makes; None where they are.

    Args:
        data_set: the reader's name.
        base: where the set lies.
        img_size: the model's.
    """
    if data_set.startswith(("ferplus", "fer2013")):  # on whose crops the geometry was measured
        return None
    if data_set != NAME:
        return "these faces are taken as they lie; `fer data prepare` aligns them as serving does"
    prepared = read_header(base / HEADER_NAME)["img_size"]
    if prepared == img_size:
        return None
    return (
        f"prepared at {prepared} px, scaled to the model's {img_size}; --img-size {img_size} makes serving's very crops"
    )
