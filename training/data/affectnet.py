"""AffectNet (Mollahosseini et al. 2017, arXiv:1708.03985): eight expressions in colour, or seven without contempt.

Two releases are read. The tables:

    training.csv  validation.csv       here, or in Manually_Annotated_file_lists/
    Manually_Annotated_Images/<subDirectory_filePath>       whole pictures with the face's box in the table

and the smaller one, of cropped faces with an annotation file each:

    train_set/annotations/<id>_exp.npy  train_set/images/<id>.jpg     val_set/...

Rows that are none, uncertain or no face are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np

from fer_app.errors import DatasetError
from training.data.decoding import map_in_threads
from training.data.face_index import FaceIndex
from training.data.label_files import first_row, read_csv
from training.data.label_maps import LABEL_MAPS
from training.data.splits import Part

_COLUMNS: Final = (
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
_TABLES: Final[dict[Part, str]] = {"train": "training.csv", "valid": "validation.csv"}
_FOLDERS: Final[dict[Part, str]] = {"train": "train_set", "valid": "val_set"}
_EXPRESSION: Final = "_exp.npy"


def find_tables(path: Path) -> Path | None:
    """Return `path` when the tables are in it, or in its Manually_Annotated_file_lists; None otherwise."""
    return path if table_parts(path) else None


def table_parts(base: Path) -> tuple[Part, ...]:
    """Return the parts whose tables are there."""
    return tuple(part for part in _TABLES if _table(base, part) is not None)


def _table(base: Path, part: Part) -> Path | None:
    candidates = (base / _TABLES[part], base / "Manually_Annotated_file_lists" / _TABLES[part])
    return next((table for table in candidates if len(first_row(table)) == len(_COLUMNS)), None)


def read_table(base: Path, part: Part) -> FaceIndex:
    """Read one part's table.

    Args:
        base: as `find_tables` returns it.
        part: `train` or `valid`.

    Raises:
        DatasetError: the table or the folder of pictures is missing, a row is damaged, or a label is unknown.
    """
    table = _table(base, part)
    if table is None:
        raise DatasetError(f"{base / _TABLES[part]} is missing, or has not {len(_COLUMNS)} columns")
    label_map = LABEL_MAPS["affectnet"]
    rows: list[tuple[str, int]] = []
    boxes: list[tuple[int, int, int, int]] = []
    for line, cells in _table_rows(table):
        where = f"{table}, line {line}"
        place = label_map.class_index(cells[6], where)
        if place is None:
            continue
        try:
            x, y, width, height = (int(float(cell)) for cell in cells[1:5])
        except (ValueError, OverflowError) as error:
            raise DatasetError(f"{where}: the face's box is {', '.join(cells[1:5])}: {error}") from error
        rows.append((cells[0], place))
        boxes.append((x, y, x + width, y + height))
    if not rows:
        raise DatasetError(f"{table} has no row with an expression")
    return FaceIndex.of_classes(_pictures(base), rows, label_map.class_names, np.array(boxes, np.int64))


def _table_rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line and cells; the first row may or may not be a header."""
    for line, cells in read_csv(table):
        if len(cells) != len(_COLUMNS):
            raise DatasetError(f"{table}, line {line}: {len(cells)} columns, expected {len(_COLUMNS)}")
        if cells[0] != _COLUMNS[0]:
            yield line, cells
        elif tuple(cells) != _COLUMNS:
            raise DatasetError(f"{table}, line {line}: columns {', '.join(cells)}, expected {', '.join(_COLUMNS)}")


def _pictures(base: Path) -> Path:
    """Find Manually_Annotated_Images beside the tables, or beside their folder."""
    candidates = [
        root / folder
        for root in (base, base.parent)
        for folder in ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images")
    ]
    found = next((folder for folder in candidates if folder.is_dir()), None)
    if found is None:
        raise DatasetError(f"{candidates[0]} is missing")
    return found


def find_annotations(path: Path) -> Path | None:
    """Return the folder that holds train_set or val_set with its annotations: `path`; None where there is none."""
    return path if annotation_parts(path) else None


def annotation_parts(base: Path) -> tuple[Part, ...]:
    """Return the parts whose annotations are there."""
    return tuple(part for part, folder in _FOLDERS.items() if (base / folder / "annotations").is_dir())


def read_annotations(base: Path, part: Part) -> FaceIndex:
    """Read one part's annotation files.

    Args:
        base: as `find_annotations` returns it.
        part: `train` or `valid`.

    Raises:
        DatasetError: a folder is missing, there are no annotations, or one of them is damaged or unknown.
    """
    folder = base / _FOLDERS[part]
    for needed in ("annotations", "images"):
        if not (folder / needed).is_dir():
            raise DatasetError(f"{folder / needed} is missing")
    files = sorted((folder / "annotations").glob(f"*{_EXPRESSION}"))
    places = chain.from_iterable(map_in_threads(_expression, files))
    rows = [
        (f"{file.name.removesuffix(_EXPRESSION)}.jpg", place)
        for file, place in zip(files, places, strict=True)
        if place is not None
    ]
    if not rows:
        raise DatasetError(f"{folder / 'annotations'} has no *{_EXPRESSION} with an expression")
    return FaceIndex.of_classes(folder / "images", rows, LABEL_MAPS["affectnet"].class_names)


def _expression(file: Path) -> int | None:
    """Read one `_exp.npy`: a single number, which the owner stores as text."""
    try:
        value = np.load(file, allow_pickle=False).item()
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise DatasetError(f"{file} cannot be read: {error}") from error
    return LABEL_MAPS["affectnet"].class_index(str(value), str(file))
