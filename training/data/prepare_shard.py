"""Shards of prepared faces: plain tar archives in WebDataset's convention, each made whole by one worker.

A shard is a range of a part's pictures. It is written under a temporary name and renamed; its report, a small JSON file
written after it, says that it is done. Nothing in a shard depends on when or by whom it was made, so any number of
workers writes the same bytes. No torch in here.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fer_app.atomic_file import replacing
from fer_app.errors import DatasetError, FerError
from fer_app.image_io import read_image
from fer_app.results import LANDMARKS
from training.data.prepare_faces import Box, FaceCut, FaceCutter, Settings, UInt8, View, clipped

WEBP_LOSSLESS: Final = 101  # OpenCV's quality above 100
_PX_DIGITS: Final = 2
_CONFIDENCE_DIGITS: Final = 6


class Picture(NamedTuple):
    """One picture to prepare.

    Attributes:
        name: as the data set spells it.
        content: the file, or uint8 (H, W), gray.
        box: x0 y0 x1 y1, px: where the set says that the face is.
        targets: one number a class; None without labels.
        dev: whether it belongs to the part `dev` of train.
    """

    name: str
    content: Path | NDArray[np.uint8]
    box: Box | None = None
    targets: tuple[float, ...] | None = None
    dev: bool = False


class Task(NamedTuple):
    """One shard to make.

    Attributes:
        part: train, valid, test, or `faces` without labels.
        number: of the shard among those of its part.
        first: number of its first picture among those of its part.
        pictures: its own.
        class_names: in the order of the targets.
    """

    part: str
    number: int
    first: int
    pictures: Sequence[Picture]
    class_names: tuple[str, ...]

    @property
    def stem(self) -> str:
        """The file's name without suffix."""
        return f"{self.part}-{self.number:06d}"


@dataclass
class ShardReport:
    """What came of a shard's pictures.

    Attributes:
        pictures: how many were looked at.
        views: how many faces were found in the picture, how many in the closer look, and how many are whole pictures.
        per_class: faces of each class, by the largest target.
        missing: names of the pictures without a face, kept or not.
        unreadable: name and reason of those that are no pictures.
    """

    pictures: int = 0
    views: dict[View, int] = field(default_factory=lambda: {"picture": 0, "closer": 0, "none": 0})
    per_class: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    @property
    def faces(self) -> int:
        """How many faces the shard holds."""
        return sum(self.views.values())

    @classmethod
    def read(cls, path: Path) -> ShardReport | None:
        """Return a report that `write_shard` left; None where there is none that is whole."""
        try:
            return cls(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def write_shard(
    task: Task, cutter: FaceCutter, settings: Settings, out: Path, reports: Path, tick: Callable[[], None]
) -> None:
    """Make one shard and its report.

    Args:
        task: what it holds.
        cutter: finds the faces; made with `settings`.
        settings: the run's.
        out: folder of the shard; one without a face gets no file.
        reports: folder of the report.
        tick: called after each picture; what it raises ends the work and leaves no file.

    Raises:
        DatasetError: the disk is full or the folder cannot be written to.
    """
    report = ShardReport(per_class=dict.fromkeys(task.class_names, 0))
    shard = out / f"{task.stem}.tar"
    try:
        with replacing(shard) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
            for offset, picture in enumerate(task.pictures):
                report.pictures += 1
                for face, cut in enumerate(_faces_of(picture, cutter, report)):
                    key = f"{task.part}-{task.first + offset:08d}" + (f"-{face:03d}" if settings.all_faces else "")
                    _add(archive, f"{key}.{settings.image_format}", _encoded(cut.crop, settings.image_format))
                    _add(archive, f"{key}.json", _described(task, picture, cut, report))
                tick()
        if not report.faces:
            shard.unlink()  # readers of WebDataset stumble over empty archives
        with replacing(reports / f"{task.stem}.json") as temporary:
            temporary.write_text(json.dumps(asdict(report)), "utf-8")
    except OSError as error:
        raise DatasetError(f"{shard} cannot be written: {error}; make room, then pass --resume") from error


def _faces_of(picture: Picture, cutter: FaceCutter, report: ShardReport) -> list[FaceCut]:
    """Read a picture and cut out its faces, and note what was wrong with it."""
    try:
        image = _read(picture.content)
    except FerError as error:
        report.unreadable.append((picture.name, str(error)))
        return []
    box = None if picture.box is None else clipped(picture.box, (image.shape[0], image.shape[1]))
    if picture.box is not None and box is None:
        reason = f"the face's box {list(picture.box)} is not in the picture ({image.shape[1]} x {image.shape[0]} px)"
        report.unreadable.append((picture.name, reason))
        return []
    cuts = cutter.cut(image, box)
    if not any(cut.found for cut in cuts):
        report.missing.append(picture.name)
    return cuts


def _read(content: Path | NDArray[np.uint8]) -> UInt8:
    if isinstance(content, Path):
        return read_image(content)
    return np.repeat(content[..., None], 3, axis=2)


def _described(task: Task, picture: Picture, cut: FaceCut, report: ShardReport) -> bytes:
    """Return the JSON member of a face, and count the face."""
    report.views[cut.view] += 1
    label = None
    if picture.targets is not None:
        label = task.class_names[int(np.argmax(picture.targets))]
        report.per_class[label] += 1
    record: dict[str, Any] = {
        "name": picture.name,
        "split": task.part,
        "dev": picture.dev,
        "label": label,
        "targets": None if picture.targets is None else list(picture.targets),
        "view": cut.view,
        "detection_confidence": None,
        "box": None,
        "landmarks": None,
    }
    if cut.found is not None:
        record["detection_confidence"] = round(float(cut.found.confidence[0]), _CONFIDENCE_DIGITS)
        record["box"] = dict(zip(("x0", "y0", "x1", "y1"), _px(cut.found.boxes[0]), strict=True))
        record["landmarks"] = {name: _px(point) for name, point in zip(LANDMARKS, cut.found.landmarks[0], strict=True)}
    return json.dumps(record).encode()


def _px(values: NDArray[np.float32]) -> list[float]:
    return [round(float(value), _PX_DIGITS) for value in values]


def _encoded(crop: UInt8, image_format: str) -> bytes:
    """Encode a crop without loss; one without colour as gray, a third as large."""
    is_gray = bool((crop == crop[..., :1]).all())
    pixels = crop[..., 0] if is_gray else cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_WEBP_QUALITY, WEBP_LOSSLESS] if image_format == "webp" else []
    done, encoded = cv2.imencode(f".{image_format}", np.ascontiguousarray(pixels), options)
    if not done:
        raise DatasetError(f"OpenCV cannot write {image_format}; pass another --format")
    return encoded.tobytes()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # of no time and no owner, so that the same faces are the same bytes
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
