"""FER2013 (Goodfellow et al. 2013, arXiv:1307.0414): seven expressions on 48x48 gray faces, one label a picture.

Two forms are read: `fer2013.csv` (columns emotion, pixels, Usage; 2,304 numbers a row) and a folder a class:

    train/angry/*.jpg  train/disgust/ ... train/surprise/       test/angry/ ...

The Usage `Training` is train, `PublicTest` valid, `PrivateTest` test; the folders have both of the latter in test/.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch

from fer_app.errors import DatasetError
from training.data import image_folder
from training.data.face_index import FaceIndex
from training.data.image_set import ImageSet
from training.data.label_files import table
from training.data.label_maps import LABEL_MAPS
from training.data.splits import PARTS, Part

SIDE_PX: Final = 48
CSV_NAME: Final = "fer2013.csv"
USAGES: Final[dict[str, Part]] = {"Training": "train", "PublicTest": "valid", "PrivateTest": "test"}


def find_csv(path: Path) -> Path | None:
    """Return fer2013.csv: `path` itself, or in it, or in its folder fer2013; None where it is not."""
    if path.name == CSV_NAME:
        return path if path.is_file() else None
    return next((file for file in (path / CSV_NAME, path / "fer2013" / CSV_NAME) if file.is_file()), None)


def csv_parts(_file: Path) -> tuple[Part, ...]:
    """Return the official parts."""
    return PARTS


def read_csv(file: Path, part: Part) -> ImageSet:
    """Read one part of fer2013.csv.

    Args:
        file: as `find_csv` returns it.
        part: `train`, `valid` or `test`.

    Returns:
        images uint8, (N, 1, 48, 48); targets float32, (N, 7); names `row00000` and so on, counted over the file.

    Raises:
        DatasetError: the file is missing or damaged; it names the line.
    """
    label_map = LABEL_MAPS["fer2013"]
    names: list[str] = []
    pixels: list[bytes] = []
    places: list[int] = []
    for number, (line, own, text, row_part) in enumerate(csv_rows(file)):
        where = f"{file}, line {line}"
        place = label_map.class_index(own, where)
        if row_part == part and place is not None:
            names.append(f"row{number:05d}")
            pixels.append(parse_pixels(text, where))
            places.append(place)
    if not names:
        raise DatasetError(f"{file} has no row of {part}")
    targets = torch.nn.functional.one_hot(torch.tensor(places), len(label_map.class_names)).to(torch.float32)
    return ImageSet(stack_pixels(pixels), targets, tuple(names), label_map.class_names)


def csv_rows(file: Path) -> Iterator[tuple[int, str, str, Part]]:
    """Yield line, emotion, pixels and part of every row.

    Raises:
        DatasetError: the file is missing or damaged, or a row has an unknown Usage.
    """
    for line, (own, text, usage) in table(file, ("emotion", "pixels", "Usage")):
        if usage not in USAGES:
            raise DatasetError(f"{file}, line {line}: unknown Usage {usage!r}, expected one of {', '.join(USAGES)}")
        yield line, own, text, USAGES[usage]


def parse_pixels(text: str, where: str) -> bytes:
    """Read the 48 x 48 numbers of a row.

    Raises:
        DatasetError: there are not that many, or one is no number from 0 to 255.
    """
    try:
        pixels = bytes(map(int, text.split()))
    except ValueError as error:
        raise DatasetError(f"{where}: pixels: {error}") from error
    if len(pixels) != SIDE_PX * SIDE_PX:
        raise DatasetError(f"{where}: {len(pixels)} pixels, expected {SIDE_PX * SIDE_PX}")
    return pixels


def stack_pixels(rows: list[bytes]) -> torch.Tensor:
    """Return uint8 (N, 1, 48, 48) of rows as `parse_pixels` returns them."""
    joined = np.frombuffer(bytearray(b"".join(rows)), np.uint8)
    return torch.from_numpy(joined.reshape(len(rows), 1, SIDE_PX, SIDE_PX))


def find_folders(path: Path) -> Path | None:
    """Return `path` when its train folder has exactly the seven class folders, and there is a test folder."""
    found = image_folder.part_folders(path)
    if not {"train", "test"} <= found.keys():
        return None
    names = {folder.name.casefold() for folder in image_folder.class_folders(found["train"])}
    return path if names == LABEL_MAPS["fer2013-folders"].canonical.keys() else None


def read_folders(base: Path, part: Part) -> FaceIndex:
    """Read one part of the folder form.

    Raises:
        DatasetError: a folder is missing or empty, or is none of the seven classes.
    """
    label_map = LABEL_MAPS["fer2013-folders"]
    rows: list[tuple[str, int]] = []
    for name, own, folder in image_folder.labelled_files(base, part):
        place = label_map.class_index(own, str(folder))
        if place is not None:
            rows.append((name, place))
    return FaceIndex.of_classes(base, rows, label_map.class_names)
