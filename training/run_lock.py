"""One process a run folder: a second one would mix its files with the first one's."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from fer_app.errors import CheckpointError

LOCK_NAME = "lock.json"


@contextlib.contextmanager
def locked(run_dir: Path, *, instead: str = "--run-dir") -> Iterator[None]:
    """Hold the folder, and clear away half-written files that a killed process left in it and its stages' folders.

    The system lets go of the lock when the process dies, whatever kills it. Where it knows no such locks (Windows, some
    network file systems), nothing is held.

    Args:
        run_dir: the folder.
        instead: the option that names another one, for the error.

    Raises:
        CheckpointError: another process holds the folder.
    """
    path = run_dir / LOCK_NAME
    descriptor = _acquire(path, instead)
    try:
        since = path.stat().st_mtime_ns
        for pattern in (".fer-*.tmp", "*/.fer-*.tmp"):  # as `fer_app.atomic_file` names them
            for left in run_dir.glob(pattern):
                with contextlib.suppress(OSError):
                    if left.stat().st_mtime_ns < since:
                        left.unlink()
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # first: whoever opens it after the closing would hold a file that is going
        os.close(descriptor)


def _acquire(path: Path, instead: str) -> int:
    """Return the locked file's descriptor; the file holds who has it."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise CheckpointError(f"cannot write to the run folder {path.parent}: {error}") from error
        try:
            if not _lock(descriptor):
                raise CheckpointError(
                    f"{path.parent} is in use by another process ({_holder(path)}): "
                    f"wait for it, or pass another {instead}"
                )
            if _is_still(path, descriptor):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
                return descriptor
        except OSError as error:
            os.close(descriptor)
            raise CheckpointError(f"cannot write to the run folder {path.parent}: {error}") from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has removed it between the opening and the locking


def _lock(descriptor: int) -> bool:
    """Lock an open file; False where another process has."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        return True
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one under its name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return f"pid {held['pid']} on {held['host']}"
    except (OSError, ValueError, TypeError, KeyError):  # it has not written that yet
        return "which has just started"
