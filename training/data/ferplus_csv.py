"""FERPlus's votes on FER2013's pixels: `fer2013.csv` and `fer2013new.csv`, as their owners publish them.

The files are paired row by row. The picture's name in fer2013new.csv cannot do it: the numbers in the names skip the
rows without a face and drift by up to 85, 173 rows have no name and four names occur twice. The votes differ from those
of the official folders' label.csv in 1,602 rows; published figures use label.csv (`training.data.ferplus`).
"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Final

import numpy as np
import torch

from fer_app.errors import DatasetError
from fer_app.labels import LABELS
from training.data.fer2013 import CSV_NAME, USAGES, csv_parts, csv_rows, parse_pixels, stack_pixels
from training.data.ferplus_votes import VOTE_COLUMNS, VoteMode, vote_targets
from training.data.image_set import ImageSet
from training.data.label_files import table
from training.data.splits import Part

__all__ = ["find", "parts", "read"]

_VOTES_NAME: Final = "fer2013new.csv"


def find(path: Path) -> Path | None:
    """Return the folder that holds fer2013new.csv: `path`, or fer2013 in it; None where neither does."""
    return next((base for base in (path, path / "fer2013") if (base / _VOTES_NAME).is_file()), None)


parts = csv_parts


def read(base: Path, part: Part, mode: VoteMode = "majority") -> ImageSet:
    """Read one part.

    Args:
        base: as `find` returns it.
        part: `train`, `valid` or `test`.
        mode: the vote rule.

    Returns:
        images uint8, (N, 1, 48, 48); targets float32, (N, 8); names as in fer2013new.csv. Rows that the rule drops
        are left out.

    Raises:
        DatasetError: a file is missing or damaged, or their rows do not fit each other.
    """
    faces, votes_file = base / CSV_NAME, base / _VOTES_NAME
    names: list[str] = []
    pixels: list[bytes] = []
    votes: list[list[int]] = []
    pairs = zip_longest(csv_rows(faces), table(votes_file, ("Usage", "Image name", *VOTE_COLUMNS)))
    for face, vote in pairs:
        if face is None or vote is None:
            short = faces if face is None else votes_file
            raise DatasetError(f"{short} has fewer rows than {votes_file if face is None else faces}")
        line, _, text, row_part = face
        votes_line, (usage, name, *cells) = vote
        where = f"{votes_file}, line {votes_line}"
        if USAGES.get(usage) != row_part:
            raise DatasetError(f"{where}: Usage is {usage!r}, but that of {faces.name}, line {line}, is another")
        if row_part != part:
            continue
        try:
            counts = [int(cell) for cell in cells]
        except ValueError as error:
            raise DatasetError(f"{where}: votes: {error}") from error
        if min(counts) < 0:
            raise DatasetError(f"{where}: a negative number of votes")
        names.append(name)
        pixels.append(parse_pixels(text, f"{faces}, line {line}"))
        votes.append(counts)
    targets, keep = vote_targets(np.array(votes, np.int64).reshape(-1, len(VOTE_COLUMNS)), mode)
    if not keep.any():
        raise DatasetError(f"{votes_file}: no row of {part} is left in mode {mode}")
    kept = np.flatnonzero(keep).tolist()
    return ImageSet(
        images=stack_pixels([pixels[i] for i in kept]),
        targets=torch.from_numpy(targets[keep]),
        names=tuple(names[i] for i in kept),
        class_names=LABELS,
    )
