"""What everything that writes files for a user has in common: folders, names, and what is said when it fails."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fer_app.errors import InputError

LONGEST_STEM: Final = 200
"""Bytes: file systems take 255 for a name, and `_faces_2.jpg` or `.timeline.png` has to fit behind it."""


def make_output_folder(folder: Path) -> None:
    """Make the folder of `--output`, and those above it, unless it is there.

    Raises:
        InputError: it is a file, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InputError(f"{folder}: is a file; --output takes a folder") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot write there: {error.strerror}") from error


def short_stem(source: str | Path) -> str:
    """Return a file's name without its suffix, cut where what is made of it would have too long a name."""
    stem = Path(source).stem
    while len(os.fsencode(stem)) > LONGEST_STEM:
        stem = stem[:-1]
    return stem


def folded(path: Path) -> str:
    """Return what two names of one file have in common: some file systems take A.mp4 and a.mp4 for one, or two é."""
    return unicodedata.normalize("NFC", str(path.resolve())).casefold()


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn a full disk, say, into an error of ours.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
