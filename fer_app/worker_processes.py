"""What processes that work for this one need, so that stopping and dying is this one's affair alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def at_most(processes: int) -> int:
    """Return how many of these a pool may have: Windows cannot wait for more than 61."""
    return min(processes, 61) if sys.platform == "win32" else processes


@contextlib.contextmanager
def stop_signals_held() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM: from this process until the block ends, from those that start in it for ever.

    A process that is interrupted before it can ignore the signal, while it loads libraries, dies with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve_parent() -> None:
    """Make this process, a worker, ignore what asks it to stop, and end when its parent does.

    A terminal sends Ctrl-C to all of its processes: the parent alone decides, and tells its workers otherwise.
    """
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End at once when the parent does, even if it was killed: a pool's queue would keep its workers for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
