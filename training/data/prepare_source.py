"""What `fer data prepare` is given: every picture of a labelled set's parts, or of a folder without labels."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fer_app.errors import DatasetError
from fer_app.source_files import find_images
from training.data import raf_db
from training.data.datasets import Reader, at, in_dev
from training.data.image_set import ImageSet
from training.data.prepare_faces import Box
from training.data.prepare_shard import Picture
from training.data.prepared import HEADER_NAME, NAME, header_file
from training.data.splits import Part

UNLABELLED: Final = "faces"


@dataclass(frozen=True, eq=False)
class PictureList:
    """What is to be prepared.

    Attributes:
        data_set: the reader's name; `pictures` without labels.
        title: what people call it.
        where: its place, for people.
        class_names: in the order of the targets; empty without labels.
        parts: train, valid, test, or `faces` alone without labels; pictures in the set's order.
    """

    data_set: str
    title: str
    where: str
    class_names: tuple[str, ...]
    parts: Mapping[str, Sequence[Picture]]

    def digest(self) -> str:
        """Return a sha256 over names, boxes, targets and parts: what tells one source from another, but for pixels."""
        digest = hashlib.sha256()
        for part, pictures in self.parts.items():
            for picture in pictures:
                told = (part, picture.name, picture.box, picture.targets, picture.dev)
                digest.update(json.dumps(told).encode())
        return digest.hexdigest()


def list_pictures(source: Path, *, splits: Sequence[str] = (), all_faces: bool = False) -> PictureList:
    """List the pictures of a source.

    Args:
        source: a labelled set, as `training.data.datasets.at` takes it; with `all_faces` any folder of pictures.
        splits: official parts to take; empty takes all.
        all_faces: take the folder's pictures, in whatever subfolders, without labels.

    Raises:
        DatasetError: no known set, no pictures, a part that is not there, or faults in the set's files.
        InputError: a folder may not be looked into.
    """
    if not source.exists():
        raise DatasetError(f"{source} does not exist")
    if header_file(source) is not None:
        raise DatasetError(f"{source} is prepared already ({HEADER_NAME}): pass the set that it was made from")
    if all_faces:
        return _unlabelled(source, splits)
    try:
        reader, base = at(source)
    except DatasetError as error:
        if source.is_dir() and find_images([source], recursive=True):
            raise DatasetError(
                f"{error}; to take every face of its pictures, without labels, pass --all-faces"
            ) from error
        raise
    assert reader.name != NAME  # refused above, or else not found
    there = reader.parts(base)
    if absent := [name for name in splits if name not in there]:
        raise DatasetError(f"{base}: {reader.title} has no {' and no '.join(absent)} here; it has {', '.join(there)}")
    parts: dict[str, Sequence[Picture]] = {}
    class_names: tuple[str, ...] = ()
    where = str(base)
    for part in there:
        if splits and part not in splits:
            continue
        parts[part], class_names = _labelled(reader, base, part)
    if reader.name == "raf-db" and raf_db.has_originals(base):
        where += " (the whole photos in Image/original)"
    return PictureList(reader.name, reader.title, where, class_names, parts)


def _unlabelled(source: Path, splits: Sequence[str]) -> PictureList:
    if splits:
        raise DatasetError("pictures without labels have no parts: leave out --split, or --all-faces")
    if not source.is_dir():
        raise DatasetError(f"{source}: --all-faces takes a folder of pictures")
    files = find_images([source], recursive=True)
    if not files:
        raise DatasetError(f"{source} holds no pictures")
    pictures = [Picture(file.relative_to(source).as_posix(), file) for file in files]
    return PictureList("pictures", "pictures without labels", str(source), (), {UNLABELLED: pictures})


def _labelled(reader: Reader, base: Path, part: Part) -> tuple[list[Picture], tuple[str, ...]]:
    """Return one part's pictures and its class names."""
    photos = reader.name == "raf-db" and raf_db.has_originals(base)
    faces = raf_db.read_originals(base, part) if photos else reader.read(base, part, "majority")
    # RAF-DB's photos are known by the names of its aligned faces, so that `dev` holds the same ones.
    names = tuple(raf_db.aligned_name(name) for name in faces.names) if photos else faces.names
    dev = in_dev(reader.name, dataclasses.replace(faces, names=names)).tolist() if part == "train" else ()
    assert faces.targets is not None  # every reader gives them
    targets = faces.targets.tolist()
    pictures = []
    for i, name in enumerate(names):
        content: Path | NDArray[np.uint8]
        box: Box | None = None
        if isinstance(faces, ImageSet):
            content = faces.images[i, 0].numpy()  # sets in memory are gray
        else:
            content = faces.root / faces.names[i]
            if faces.boxes is not None:
                x0, y0, x1, y1 = faces.boxes[i].tolist()
                box = (x0, y0, x1, y1)
        pictures.append(Picture(name, content, box, tuple(targets[i]), bool(dev and dev[i])))
    return pictures, faces.class_names
