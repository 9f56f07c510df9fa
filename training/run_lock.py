"""One process a run folder: a second one would mix its files with the first one's."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from fer_app.errors import CheckpointError, FerError

LOCK_NAME = "lock.json"


@contextlib.contextmanager
def locked(folder: Path, *, instead: str = "--run-dir", error: type[FerError] = CheckpointError) -> Iterator[None]:
    """Hold the folder, and clear away half-written files that a killed process left in it, at most two levels below.

    The system lets go of the lock when the process dies, whatever kills it. Where it knows no such locks (Windows, some
    network file systems), nothing is held.

    Args:
        folder: of a run, or of prepared faces.
        instead: the option that names another one, for the error.
        error: what is raised.

    Raises:
        FerError: `error`: another process holds the folder, or it cannot be written to.
    """
    path = folder / LOCK_NAME
    descriptor = _acquire(path, instead, error)
    try:
        since = path.stat().st_mtime_ns
        for above in ("", "*/", "*/*/"):  # the run's, its stages', their pictures'
            for left in folder.glob(f"{above}.fer-*.tmp"):  # as `fer_app.atomic_file` names them
                with contextlib.suppress(OSError):
                    if left.stat().st_mtime_ns < since:
                        left.unlink()
        yield
    finally:
        if sys.platform == "win32":  # where an open file cannot be removed
            os.close(descriptor)
        with contextlib.suppress(OSError):
            path.unlink()  # first: whoever opens it after the closing would hold a file that is going
        if sys.platform != "win32":
            os.close(descriptor)


def _acquire(path: Path, instead: str, error: type[FerError]) -> int:
    """Return the locked file's descriptor; the file holds who has it."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as fault:
            raise error(f"cannot write to {path.parent}: {fault}") from fault
        try:
            if not _lock(descriptor):
                raise error(
                    f"{path.parent} is in use by another process ({_holder(path)}): "
                    f"wait for it, or pass another {instead}"
                )
            if _is_still(path, descriptor):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
                return descriptor
        except OSError as fault:
            os.close(descriptor)
            raise error(f"cannot write to {path.parent}: {fault}") from fault
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
