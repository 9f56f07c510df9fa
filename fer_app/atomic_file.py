"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import contextlib
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fer_app.errors import InputError

_WAITS_S = (0.1, 0.2, 0.4, 0.8, 1.6)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; rename it to `path` on a clean exit, remove it on an exception.

    A symbolic link is followed, so that it stays one. Something that is no regular file (a pipe, `/dev/stdout`) cannot
    be replaced and is given as it is.

    Raises:
        InputError: the folder does not exist, or `path` is a folder.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise InputError(f"{path}: is a folder; name a file to write to")
    if not target.parent.is_dir():
        raise InputError(f"{path}: the folder {target.parent} does not exist; make it first")
    if target.exists() and not target.is_file():
        yield target
        return
    # Not tempfile: its files are readable by their owner alone, and would stay so after the renaming.
    temporary = target.with_name(f".fer-{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        _rename(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _rename(temporary: Path, target: Path) -> None:
    """Rename; on Windows a virus scanner or a backup that looks into the file just now is waited for."""
    for wait_s in _WAITS_S if sys.platform == "win32" else ():
        try:
            temporary.replace(target)
        except PermissionError:
            time.sleep(wait_s)
        else:
            return
    temporary.replace(target)
