"""Processes of a run end together: what stops one of them stops all, is told once, and leaves nobody waiting.

A process that waits in a collective for another that has failed would wait for half an hour. So the one that fails
leaves a note in the store by which torch's processes found each other, and a thread in each of the others looks there.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

from lightning.fabric import Fabric
from torch import distributed
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from fer_app.errors import ProcessLostError
from training.distributed import World
from training.interruption import RunInterruptedError

_LOOK_S = 0.2
_GRACE_S = 1.0  # what a process has to end by itself, once another has failed
_PATIENCE_S = 30.0

_FIRST, _FAILED, _TOLD, _KNOW = "first", "failed", "told", "know"


@contextlib.contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """Run the block in all processes, and end it in all if one of them fails.

    An error is raised in the process that told it first, and is SystemExit(1) in the others. An interruption, which
    all have agreed on, is raised in all.

    Raises:
        ProcessLostError: another process was killed.
    """
    if fabric.world_size == 1:
        yield
        return
    watch = _Watch(fabric)
    try:
        yield
        watch.part()
    except RunInterruptedError:
        watch.part()
        watch.leave()
        raise
    except SystemExit:  # the first process has failed, and tells it
        watch.leave()
        raise
    except BaseException as error:
        lost = _is_lost_peer(error)
        if not watch.fail(waits=not lost):
            raise SystemExit(1) from error
        if lost:
            raise ProcessLostError(
                "another process of the run has ended or cannot be reached: see what it said; --resume goes on from "
                "the last saved state"
            ) from error
        raise


class _Watch:
    """Looks for another process's failure, and ends this one if it cannot."""

    def __init__(self, fabric: Fabric) -> None:
        self._world = World(fabric)
        where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(*where, is_master=False, timeout=timedelta(seconds=30))
        # torchrun keeps its store when it starts the processes anew.
        self._store = PrefixStore(f"fer-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        # Fabric's launcher, in the first process, kills that one when a child of it ends with an error.
        if self._world.rank == 0:
            self._store.set(_FIRST, f"{socket.gethostname()} {os.getpid()}")
        self._is_child = self._store.get(_FIRST).decode() == f"{socket.gethostname()} {os.getppid()}"
        self._lock = threading.Lock()
        self._over = False
        self._world.highest(0)  # all are there
        threading.Thread(target=self._look, daemon=True, name="look-for-failures").start()

    def part(self) -> None:
        """Come to the end, as all others do."""
        self._stop()
        self._world.highest(0)

    def leave(self) -> None:
        """End as the first process does, and after it."""
        self._stop()
        self._know()
        if self._is_child:
            atexit.register(self._wait_for_the_first)

    def fail(self, *, waits: bool) -> bool:
        """Leave the note for the others, and stay until they have found it, unless one of them never will.

        Returns:
            Whether it is the first note, so that this process tells what happened.
        """
        self._stop()
        first = False
        with contextlib.suppress(RuntimeError):  # the store is gone with the first process
            self._store.set(_FAILED, "1")
            first = self._store.add(_TOLD, 1) == 1
        self.leave()
        if waits and self._world.rank == 0:
            atexit.register(self._wait_for_others)  # the store goes with this process
        return first

    def _stop(self) -> None:
        with self._lock:
            self._over = True

    def _know(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._store.add(_KNOW, 1)

    def _wait_for_others(self) -> None:
        until = time.monotonic() + _PATIENCE_S
        with contextlib.suppress(RuntimeError):
            while self._store.add(_KNOW, 0) < self._world.size and time.monotonic() < until:
                time.sleep(_LOOK_S)

    def _wait_for_the_first(self) -> None:
        first, until = os.getppid(), time.monotonic() + _PATIENCE_S
        while os.getppid() == first and time.monotonic() < until:
            time.sleep(_LOOK_S / 10)

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            with self._lock:
                if self._over:
                    return
            try:
                failed = self._store.check([_FAILED])
            except RuntimeError:
                failed = True
            if failed:
                self._know()
                time.sleep(_GRACE_S)
                with self._lock:
                    if self._over:
                        return
                if self._is_child:
                    self._wait_for_the_first()
                sys.stderr.flush()
                os._exit(1)  # the main thread waits in a collective, where no exception reaches it


def _is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed, and not this process; gloo raises plain RuntimeErrors."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
