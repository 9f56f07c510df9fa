"""Which group every face belongs to (age, gender, camera, ...), by a column of a table, and what each group scores."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from fer_app.errors import DatasetError
from training.data.label_files import table
from training.metrics import ClassificationReport
from training.predictions import Predictions

NO_GROUP: Final = "(none)"
"""The group of faces that the table leaves out, or whose cell is empty."""


def read_groups(file: Path, column: str, names: tuple[str, ...], *, key: str) -> tuple[str, ...]:
    """Return each face's group.

    Args:
        file: a CSV with a header.
        column: has the groups.
        names: N names of faces.
        key: the column that has these names; they may also be paths that start with the table's folder.

    Returns:
        N groups, `NO_GROUP` where the table has none.

    Raises:
        DatasetError: the table is missing or damaged, lacks a column (the message has those there), puts a face into
            two groups, or has none of the faces.
    """
    group_of: dict[str, str] = {}
    for line, (name, group) in table(file, (key, column)):
        if group_of.setdefault(name, group) != group:
            raise DatasetError(f"{file}, line {line}: {name} is in two groups, {group_of[name]!r} and {group!r}")
    # Where two parts of a set are joined, their names are whole paths.
    whole = {str(file.parent / name): group for name, group in group_of.items()}
    if not any(name in group_of or name in whole for name in names):
        seen = next(iter(group_of), "nothing")
        raise DatasetError(
            f"{file} has none of the {len(names)} faces: its column {key} has {seen!r}, a face is called {names[0]!r}"
        )
    return tuple(group_of.get(name) or whole.get(name) or NO_GROUP for name in names)


def score_groups(predictions: Predictions, groups: tuple[str, ...]) -> dict[str, ClassificationReport]:
    """Return the figures of each group, sorted by name, what has no group last.

    Args:
        predictions: of N faces.
        groups: of the same N faces.
    """
    of_face = np.array(groups)
    order = sorted(set(groups), key=lambda group: (group == NO_GROUP, group))
    return {group: predictions.report(of_face == group) for group in order}
