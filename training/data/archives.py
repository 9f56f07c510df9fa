"""Tar archives, plain or gzipped, read front to back in one pass.

What is not wanted of a plain archive is stepped over, of a gzipped one decompressed and dropped. An archive that ends
without tar's closing block of zeros was cut off: Python's `tarfile` would take its end for the archive's.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Final

from fer_app.errors import DatasetError

ARCHIVE_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")

_GZIP_MAGIC = b"\x1f\x8b"
_READ_AT_ONCE = 1 << 20


def read_tar(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield the wanted files' names and contents, in the archive's order.

    Args:
        path: the archive.
        wanted: whether the file of this name is read; asked once for each, in their order.

    Raises:
        DatasetError: the file is no tar archive, or is cut off or damaged.
    """
    for file, member in _members(path):
        if member.isreg() and not member.issparse() and wanted(member.name):
            try:
                file.seek(member.offset_data)
                content = file.read(member.size)
            except (zlib.error, EOFError, OSError) as error:
                raise _unreadable(path, error) from error
            if len(content) < member.size:
                raise _unreadable(path, EOFError(f"it ends within {member.name}"))
            yield member.name, content


def first_names(path: Path, limit: int | None = None) -> list[str]:
    """Return the names of an archive's first members, or of all; what they hold is skipped.

    Raises:
        DatasetError: the file is no tar archive, or is cut off or damaged.
    """
    return [member.name for _, member in islice(_members(path), limit)]


def count_files(path: Path, wanted: Callable[[str], bool]) -> tuple[int, str | None]:
    """Count the wanted files, with one pass over the headers, for which gzip has to be decompressed.

    Returns:
        How many there are, and what is wrong with the archive, if anything is: those before the fault are counted.
    """
    count = 0
    try:
        for _, member in _members(path):
            count += member.isreg() and not member.issparse() and wanted(member.name)
    except DatasetError as error:
        return count, str(error)
    return count, None


def _members(path: Path) -> Iterator[tuple[IO[bytes], tarfile.TarInfo]]:
    """Yield the open, decompressed file with each member's header; the next one is found wherever the file stands."""
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            # GzipFile is Python, and slow when it is asked for every header by itself.
            file = io.BufferedReader(gzip.GzipFile(fileobj=raw), _READ_AT_ONCE) if is_gzip else raw
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    yield file, member
                    archive.members.clear()  # type: ignore[attr-defined] # a long archive's headers would fill the memory
                _see_the_end(file, archive.offset, whole=is_gzip)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise _unreadable(path, error) from error


def _see_the_end(file: IO[bytes], offset: int, *, whole: bool) -> None:
    """See that the archive is closed there, and with `whole` that all of the file can be read: gzip checks sums last.

    Raises:
        EOFError: it is not closed.
        OSError: gzip's checksum is another.
    """
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("it is cut off or damaged: the block that closes an archive is missing")
    while whole and file.read(_READ_AT_ONCE):
        pass


def _unreadable(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"{path} cannot be read as a tar archive: {error}")
