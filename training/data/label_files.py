"""Rows of a data set's label files, with the line that each stands on; every fault names file and line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from fer_app.errors import DatasetError


def read_csv(path: Path, *, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield line number (from 1) and cells, stripped, of every row that is not empty.

    Raises:
        DatasetError: the file is missing, no UTF-8, or no CSV.
    """
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            for row in reader:
                line = reader.line_num
                if row:
                    yield line, [cell.strip() for cell in row]
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is no UTF-8 text: {error}") from error
    except (OSError, csv.Error) as error:
        raise DatasetError(f"{path}, after line {line}: {error}") from error


def first_row(path: Path) -> list[str]:
    """Return the first row's cells; empty where the file is missing, empty or unreadable."""
    try:
        return next(read_csv(path))[1]
    except (DatasetError, StopIteration):
        return []


def table(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and the wanted cells of every row below the header, in the order of `wanted`.

    Raises:
        DatasetError: as `read_csv`; the file is empty, a wanted column is missing, or a row has another number of
            cells than the header.
    """
    rows = read_csv(path)
    line, header = next(rows, (0, []))
    if not header:
        raise DatasetError(f"{path} is empty")
    if missing := [name for name in wanted if name not in header]:
        raise DatasetError(f"{path}, line {line}: no column {', '.join(missing)}; it has {', '.join(header)}")
    places = [header.index(name) for name in wanted]
    for line, row in rows:
        if len(row) != len(header):
            raise DatasetError(f"{path}, line {line}: {len(row)} columns, expected {len(header)}")
        yield line, [row[place] for place in places]
