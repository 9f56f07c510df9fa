"""Tar archives, compressed or not, read front to back in one pass."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from fer_app.errors import DatasetError

ARCHIVE_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")


def read_tar(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield the wanted files' names and contents, in the archive's order.

    Args:
        path: the archive.
        wanted: whether the file of this name is read.

    Raises:
        DatasetError: the file is no tar archive, or is cut off or damaged.
    """
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isfile() and wanted(member.name) and (stream := archive.extractfile(member)):
                    yield member.name, stream.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DatasetError(f"{path} cannot be read as a tar archive: {error}") from error


def first_names(path: Path, limit: int | None = None) -> list[str]:
    """Return the names of an archive's first members, or of all; what they hold is skipped.

    Raises:
        DatasetError: the file is no tar archive, or is cut off or damaged.
    """
    try:
        with tarfile.open(path, "r|*") as archive:
            return [member.name for member in islice(archive, limit)]
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DatasetError(f"{path} cannot be read as a tar archive: {error}") from error
