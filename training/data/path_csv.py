"""A table of paths and labels: `path,label[,split]`, further columns welcome.

Paths are relative to the table, or absolute. Where there is no column `split` (train, valid, test), a fixed fifth of
every class is valid and the rest is train.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fer_app.errors import DatasetError
from training.data.face_index import FaceIndex
from training.data.image_folder import PART_NAMES, valid_share
from training.data.label_files import first_row, table
from training.data.label_maps import own_classes
from training.data.splits import PARTS, Part

_NEEDED: Final = ("path", "label")


def find(path: Path) -> Path | None:
    """Return the table: `path` itself, or the only one in the folder `path`; None where there is none."""
    if path.is_dir():
        tables = [file for file in sorted(path.glob("*.csv")) if set(_NEEDED) <= set(first_row(file))]
        return tables[0] if len(tables) == 1 else None
    return path if path.suffix.lower() == ".csv" and set(_NEEDED) <= set(first_row(path)) else None


def parts(file: Path) -> tuple[Part, ...]:
    """Return the parts that rows name, or those that are made where there is no column for them.

    Raises:
        DatasetError: as `read`.
    """
    if not _is_split(file):
        return ("train", "valid")
    named = {part for _, _, part in _rows(file)}
    return tuple(part for part in PARTS if part in named)


def read(file: Path, part: Part) -> FaceIndex:
    """Read one part.

    Args:
        file: as `find` returns it.
        part: one of `parts(file)`.

    Returns:
        The class names are canonical where all labels mean canonical ones; see `own_classes`.

    Raises:
        DatasetError: the table is missing or damaged, a row has no path or label or another split, or no row is of
            the part, or there are fewer than two classes.
    """
    rows = _rows(file)
    class_names, places = own_classes((own for _, own, _ in rows), str(file))
    whole = [(name, places[own]) for name, own, row_part in rows if row_part in (part, None)]
    if not whole:
        raise DatasetError(f"{file} has no row of {part}")
    index = FaceIndex.of_classes(file.parent, whole, class_names)
    return index if _is_split(file) else valid_share(index, part)


def _is_split(file: Path) -> bool:
    return "split" in first_row(file)


def _rows(file: Path) -> list[tuple[str, str, Part | None]]:
    """Read path, label and part (None without a column for it) of every row."""
    columns = (*_NEEDED, "split") if _is_split(file) else _NEEDED
    rows: list[tuple[str, str, Part | None]] = []
    for line, (name, own, *split) in table(file, columns):
        where = f"{file}, line {line}"
        if not name or not own:
            raise DatasetError(f"{where}: a row needs a path and a label")
        if split and split[0].casefold() not in PART_NAMES:
            raise DatasetError(f"{where}: unknown split {split[0]!r}, expected one of {', '.join(PARTS)}")
        rows.append((name, own, PART_NAMES[split[0].casefold()] if split else None))
    return rows
