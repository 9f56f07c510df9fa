"""Which group every face belongs to (age, gender, camera, ...), by a column of a table, and what each group scores."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from fer_app.errors import DatasetError
from training.data.label_files import first_row, table
from training.metrics import ClassificationReport
from training.predictions import Predictions

NO_GROUP: Final = "(none)"
"""The group of faces that the table leaves out, or whose cell is empty."""


def read_groups(
    file: Path, column: str, names: tuple[str, ...], *, keys: tuple[str, ...] = ("name", "path")
) -> tuple[str, ...]:
    """Return each face's group.

    Args:
        file: a CSV with a header.
        column: has the groups.
        names: N names of faces.
        keys: columns that may have these names, or paths to them from the table's folder; the first one there that
            has any counts.

    Returns:
        N groups, `NO_GROUP` where the table has none.

    Raises:
        DatasetError: the table is missing or damaged, lacks a column (the message has those there), puts a face into
            two groups, or has none of the faces.
    """
    there = first_row(file)
    fitting = [key for key in keys if key in there] or keys[:1]
    faults = []
    for key in fitting:
        group_of, seen = _by_key(file, column, key)
        if any(name in group_of for name in names):
            return tuple(group_of.get(name) or NO_GROUP for name in names)
        faults.append(f"its column {key} has {seen!r}")
    raise DatasetError(f"{file} has none of the {len(names)} faces: {', '.join(faults)}, a face is called {names[0]!r}")


def _by_key(file: Path, column: str, key: str) -> tuple[dict[str, str], str]:
    """Return the groups by what a column has, and by that as paths from the table's folder; and its first cell."""
    group_of: dict[str, str] = {}
    for line, (name, group) in table(file, (key, column)):
        if group_of.setdefault(name, group) != group:
            raise DatasetError(f"{file}, line {line}: {name} is in two groups, {group_of[name]!r} and {group!r}")
    # Sets whose parts lie in different folders have whole paths for names.
    whole = {str(file.parent / name): group for name, group in group_of.items()}
    return {**whole, **group_of}, next(iter(group_of), "nothing")


def score_groups(predictions: Predictions, groups: tuple[str, ...]) -> dict[str, ClassificationReport]:
    """Return the figures of each group, sorted by name, what has no group last.

    Args:
        predictions: of N faces.
        groups: of the same N faces.
    """
    of_face = np.array(groups)
    order = sorted(set(groups), key=lambda group: (group == NO_GROUP, group))
    return {group: predictions.report(of_face == group) for group in order}
