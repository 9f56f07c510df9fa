"""Any set of faces in a folder a class, split by folders or not.

    train/<class>/*.jpg  valid/<class>/*.jpg  test/<class>/*.jpg        valid may be val or validation
    <class>/*.jpg

Without folders for the parts, a fixed fifth of every class is valid and the rest is train.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

from fer_app.errors import DatasetError
from fer_app.source_files import IMAGE_SUFFIXES, find_images
from training.data.face_index import FaceIndex
from training.data.label_maps import own_classes
from training.data.splits import PARTS, VALID_SHARE, Part, stratified

PART_NAMES: Final[dict[str, Part]] = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
}
VALID_KEY: Final = "valid-v1"


def find(path: Path) -> Path | None:
    """Return `path` when it is a folder of class folders, or of parts with class folders; None otherwise."""
    if not path.is_dir():
        return None
    found = part_folders(path)
    folder = found.get("train", path)
    if any(_is_picture(child) for child in folder.iterdir()):
        return None  # pictures without a class
    filled = [child for child in class_folders(folder) if any(_is_picture(file) for file in child.iterdir())]
    return path if len(filled) >= 2 else None


def parts(base: Path) -> tuple[Part, ...]:
    """Return the parts that there are, or those that are made where there are none."""
    found = part_folders(base)
    return tuple(part for part in PARTS if part in found) if "train" in found else ("train", "valid")


def read(base: Path, part: Part) -> FaceIndex:
    """Read one part.

    Args:
        base: the folder.
        part: one of `parts(base)`.

    Returns:
        The class names are canonical where all folders' names mean canonical labels; see `own_classes`.

    Raises:
        DatasetError: a class folder has no picture, or there are fewer than two classes.
    """
    found = part_folders(base)
    folders = [found[p] for p in PARTS if p in found] if "train" in found else [base]
    class_names, places = own_classes((child.name for f in folders for child in class_folders(f)), str(base))
    rows = [(name, places[own]) for name, own, _ in labelled_files(base, part if "train" in found else None)]
    index = FaceIndex.of_classes(base, rows, class_names)
    return index if "train" in found else valid_share(index, part)


def valid_share(index: FaceIndex, part: Part) -> FaceIndex:
    """Return the fixed part of a set that has no parts of its own: a fifth of every class is valid."""
    in_valid = stratified(index.names, index.targets, VALID_SHARE, VALID_KEY)
    return index.subset(torch.nonzero(in_valid if part == "valid" else ~in_valid).flatten())


def part_folders(path: Path) -> dict[Part, Path]:
    """Return the folders of the parts.

    Raises:
        DatasetError: two folders mean the same part.
    """
    found: dict[Part, Path] = {}
    for child in sorted(path.iterdir()) if path.is_dir() else ():
        part = PART_NAMES.get(child.name.casefold())
        if part is not None and child.is_dir():
            if part in found:
                raise DatasetError(f"{path}: both {found[part].name} and {child.name} are {part}")
            found[part] = child
    return found


def class_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, without the hidden ones, sorted by name."""
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def labelled_files(base: Path, part: Part | None) -> Iterator[tuple[str, str, Path]]:
    """Yield each picture's path below `base`, its class folder's name, and that folder.

    Args:
        base: the set's folder.
        part: whose folder is read; None where class folders lie in `base` itself.

    Raises:
        DatasetError: the part has no folder, or a class folder has no picture.
        InputError: a folder may not be looked into.
    """
    folder = base if part is None else part_folders(base).get(part)
    if folder is None:
        raise DatasetError(f"{base} has no folder for {part}")
    for child in class_folders(folder):
        files = find_images([child], recursive=True)
        if not files:
            raise DatasetError(f"{child} has no picture")
        for file in files:
            yield file.relative_to(base).as_posix(), child.name, child


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
