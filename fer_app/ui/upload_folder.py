"""Where everything that people send lies until it is deleted: one private folder, and nothing outside it is read."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

KEPT_S = 3600.0
"""So long, seconds, an upload and what was made of it can be fetched."""


class UploadFolder:
    """A folder of this process alone, which is deleted with all that is in it when the `with` block ends.

    Attributes:
        root: its path, absolute and without symbolic links.
    """

    def __init__(self, kept_s: float = KEPT_S) -> None:
        """Make the folder.

        Args:
            kept_s: a file may be deleted when it was not written to for so long, seconds.
        """
        self.root = Path(tempfile.mkdtemp(prefix="fer-ui-")).resolve()  # readable by its owner alone
        self._kept_s = kept_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def new(self) -> Path:
        """Make a folder for one result, whose name nobody can guess."""
        folder = self.root / f"result-{secrets.token_urlsafe(16)}"
        folder.mkdir(mode=0o700)
        return folder

    def contains(self, path: str) -> bool:
        """Tell whether a path leads to something in the folder, wherever `..` and symbolic links lead.

        Args:
            path: as it came from outside.
        """
        try:
            return Path(path).is_absolute() and Path(os.path.realpath(path)).is_relative_to(self.root)
        except (OSError, ValueError):  # a null character, a loop of links
            return False

    def delete(self, paths: list[str]) -> None:
        """Delete files of the folder that are not needed any more; others are left alone.

        Args:
            paths: as they came from outside.
        """
        for path in filter(self.contains, paths):
            with contextlib.suppress(OSError):
                Path(path).unlink()

    def keep(self, path: str | Path) -> None:
        """Let a file of the folder stay for as long again; others are left alone.

        Args:
            path: as it came from outside.
        """
        if self.contains(str(path)):
            with contextlib.suppress(OSError):
                os.utime(path)

    def sweep(self, now_s: float | None = None) -> None:
        """Delete what has lain there for long enough, and the folders that are empty then.

        Args:
            now_s: the time, as `time.time` gives it; None is now.
        """
        oldest_s = (time.time() if now_s is None else now_s) - self._kept_s
        for folder, folders, files in os.walk(self.root, topdown=False):
            for path in [Path(folder, name) for name in files + folders]:
                with contextlib.suppress(OSError):
                    if path.lstat().st_mtime < oldest_s:
                        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
