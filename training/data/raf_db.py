"""RAF-DB, basic emotions (Li, Deng and Du 2017, CVPR): seven expressions on aligned 100x100 colour faces.

    basic/EmoLabel/list_patition_label.txt      lines `train_00001.jpg 5`; the owner's spelling
    basic/Image/aligned/train_00001_aligned.jpg
    basic/Image/original/train_00001.jpg                          whole photos; for `fer data prepare`
    basic/Annotation/boundingbox/train_00001_boundingbox.txt      x0 y0 x1 y1, px of the whole photo

There is no validation part; names say whether a row is of Train or Test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from fer_app.errors import DatasetError
from training.data.face_index import FaceIndex
from training.data.label_files import read_csv
from training.data.label_maps import LABEL_MAPS
from training.data.splits import Part

_LABEL_FILE: Final = Path("EmoLabel") / "list_patition_label.txt"
_PICTURES: Final = Path("Image") / "aligned"
_ORIGINALS: Final = Path("Image") / "original"
_BOXES: Final = Path("Annotation") / "boundingbox"


def find(path: Path) -> Path | None:
    """Return the folder that holds EmoLabel and Image: `path`, or `basic` in it; None where neither does."""
    return next((base for base in (path, path / "basic") if (base / "EmoLabel").is_dir()), None)


def parts(_base: Path) -> tuple[Part, ...]:
    """Return the official parts."""
    return ("train", "test")


def read(base: Path, part: Part) -> FaceIndex:
    """Read one part's labels.

    Args:
        base: as `find` returns it.
        part: `train` or `test`.

    Raises:
        DatasetError: a file or folder is missing, a line is damaged, or a label is unknown.
    """
    pictures = base / _PICTURES
    if not pictures.is_dir():
        raise DatasetError(f"{pictures} is missing")
    rows = [(aligned_name(name), place) for name, place in _labels(base, part)]
    return FaceIndex.of_classes(pictures, rows, LABEL_MAPS["raf-db"].class_names)


def has_originals(base: Path) -> bool:
    """Tell whether the whole photos are there."""
    return (base / _ORIGINALS).is_dir()


def read_originals(base: Path, part: Part) -> FaceIndex:
    """Read one part's labels with the whole photos, and the faces' boxes where the set's folder of them is there.

    Raises:
        DatasetError: as `read`; a face has no box, or a damaged one.
    """
    rows = _labels(base, part)
    boxes = None
    if (base / _BOXES).is_dir():
        boxes = np.array([_box(base / _BOXES / f"{Path(name).stem}_boundingbox.txt") for name, _ in rows], np.int64)
    return FaceIndex.of_classes(base / _ORIGINALS, rows, LABEL_MAPS["raf-db"].class_names, boxes)


def aligned_name(name: str) -> str:
    """Return the file name of the aligned face of a photo."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}_aligned{dot}{suffix}"


def _labels(base: Path, part: Part) -> list[tuple[str, int]]:
    """Read the names and classes of one part, as the label file spells them."""
    labels = base / _LABEL_FILE
    label_map = LABEL_MAPS["raf-db"]
    rows: list[tuple[str, int]] = []
    for line, spaced in read_csv(labels, delimiter=" "):
        where = f"{labels}, line {line}"
        cells = [cell for cell in spaced if cell]
        if len(cells) != 2:
            raise DatasetError(f"{where}: {len(cells)} columns, expected 2")
        name, own = cells
        if not name.startswith(("train_", "test_")):
            raise DatasetError(f"{where}: {name!r} is of neither part: expected train_... or test_...")
        place = label_map.class_index(own, where)
        if name.startswith(f"{part}_") and place is not None:
            rows.append((name, place))
    if not rows:
        raise DatasetError(f"{labels} has no row of {part}")
    return rows


def _box(file: Path) -> list[int]:
    try:
        x0, y0, x1, y1 = (round(float(cell)) for cell in file.read_text("utf-8").split())
    except (OSError, ValueError, OverflowError) as error:
        raise DatasetError(f"{file} is no box of four numbers: {error}") from error
    return [x0, y0, x1, y1]
