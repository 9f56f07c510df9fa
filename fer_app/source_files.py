"""Which files a list of paths, folders and patterns means."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from fer_app.errors import InputError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif"}
)


VIDEO_SUFFIXES = frozenset(
    {
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".mpg",
        ".mpeg",
        ".ts",
        ".mts",
        ".m2ts",
        ".wmv",
        ".flv",
        ".3gp",
        ".ogv",
    }
)

# Of Windows, where `*.jpg` or an address is no name that a file could have.
_NO_NAME = 123


def find_images(sources: Iterable[str | Path], recursive: bool = False) -> list[Path]:
    """Return the picture files that the sources mean, in the order of the sources.

    A file is taken as it is, whatever its suffix. A folder gives its files with a suffix in `IMAGE_SUFFIXES`, in
    natural order (`2.jpg` before `10.jpg`); a pattern (`*`, `?`, `[...]`, `**`) gives the matching ones likewise, and
    the folders that match. Hidden files and folders inside a folder are passed over.

    Args:
        sources: files, folders and patterns.
        recursive: whether a folder means its subfolders too.

    Raises:
        InputError: a path is empty, does not exist or may not be looked at, a folder neither, or a pattern matches
            nothing.
    """
    return _find(sources, recursive, IMAGE_SUFFIXES, "picture")


def find_videos(sources: Iterable[str | Path], recursive: bool = False) -> list[Path]:
    """Return the video files that the sources mean, as `find_images` does for pictures, by `VIDEO_SUFFIXES`."""
    return _find(sources, recursive, VIDEO_SUFFIXES, "video")


def is_folder(path: Path) -> bool:
    """Whether a path is that of a folder; False where there is nothing.

    Raises:
        InputError: this user, or the system, may not look at it.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a null character
        return False
    except OSError as error:
        if getattr(error, "winerror", None) == _NO_NAME:
            return False
        raise InputError(f"{path}: cannot be looked at: {error.strerror}") from error


def _find(sources: Iterable[str | Path], recursive: bool, suffixes: frozenset[str], what: str) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        # An empty variable in a script must not become the current folder.
        if not str(source):
            raise InputError("an empty name is no file or folder")
        path = Path(source)
        # First as a name: a file may well be called `[1].jpg`.
        if is_folder(path):
            found += _in_folder(path, recursive, suffixes)
        elif path.exists():
            found.append(path)
        elif glob.has_magic(str(source)):
            found += _matching(str(source), recursive, suffixes, what)
        else:
            raise InputError(f"{source}: no such file or folder")
    return found


def _in_folder(folder: Path, recursive: bool, suffixes: frozenset[str]) -> list[Path]:
    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):  # deleted meanwhile
            return
        raise InputError(f"{error.filename}: cannot be looked into: {error.strerror}") from error

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        # In place: what is removed here is not walked into.
        folders[:] = sorted((f for f in folders if recursive and not f.startswith(".")), key=_natural)
        found += [Path(parent, name) for name in sorted(names, key=_natural) if _is_named_so(name, suffixes)]
    return found


def _matching(pattern: str, recursive: bool, suffixes: frozenset[str], what: str) -> list[Path]:
    found: list[Path] = []
    for match in sorted(glob.glob(pattern, recursive=True), key=_natural):  # noqa: PTH207 - Path.glob takes no absolute pattern
        path = Path(match)
        # `**` lists every folder and every file by itself: only other patterns mean what is inside a folder.
        if (folder := is_folder(path)) and "**" not in pattern:
            found += _in_folder(path, recursive, suffixes)
        elif not folder and path.is_file() and _is_named_so(path.name, suffixes):
            found.append(path)
    if not found:
        raise InputError(f"{pattern}: matches no {what}")
    return found


def _is_named_so(name: str, suffixes: frozenset[str]) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in suffixes


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key: runs of digits compare as numbers, the rest without regard to case."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts if part], name
