"""Stages of a long stream, each in a thread of its own, with short queues between them.

Decoding, networks, drawing and encoding all leave Python's lock while they work, so that threads run side by side. The
order is kept, and memory stays the same however long the stream is: who is ahead waits.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")

_WAIT_S = 0.2


class _Stopped(BaseException):
    """Ends the stages of a pipeline that nobody reads from any more; never leaves their threads."""


class _End:
    """The last thing in a queue: nothing more comes, or the error because of which nothing does."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Link(Generic[T]):
    """A queue and the thread that fills it from an iterable."""

    def __init__(self, items: Iterable[T], depth: int, stopped: threading.Event) -> None:
        self._items, self._stopped = items, stopped
        self._queue: queue.Queue[Any] = queue.Queue(depth)
        self.thread = threading.Thread(target=self._fill, daemon=True)

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._next()
            if self._stopped.is_set():
                raise _Stopped
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def _next(self) -> Any:
        while True:
            # On Windows nothing interrupts a wait that has no end, Ctrl-C neither.
            with contextlib.suppress(queue.Empty):
                return self._queue.get(timeout=_WAIT_S)

    def _fill(self) -> None:
        end = _End()
        try:
            for item in self._items:
                self._queue.put(item)
                if self._stopped.is_set():
                    return
        except _Stopped:
            return
        except BaseException as error:
            end = _End(error)
        self._queue.put(end)

    def finish(self) -> None:
        """Let the thread end and wait for it; who waits for an item is told that none comes."""
        while self.thread.is_alive():
            self._drain()  # makes room for what the thread wants to put
            self.thread.join(timeout=0.02)
        self._drain()
        self._queue.put(_End())

    def _drain(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()


class Pipeline:
    """Runs iterators in threads, one behind the other.

    An exception in a stage arrives, once and as itself, where the last stage is read. When the block ends, for
    whatever reason, all stages are stopped after the item that each is working on, and their threads have ended.

    Example:
        >>> with Pipeline(depth=1) as pipeline:
        ...     frames = pipeline.thread(reader)
        ...     for faces in pipeline.thread(find(frame) for frame in frames):
        ...         write(faces)
    """

    def __init__(self, *, depth: int = 1) -> None:
        """Set how far a stage may be ahead of the next.

        Args:
            depth: at most this many items wait between two stages.
        """
        self._depth = depth
        self._stopped = threading.Event()
        self._links: list[_Link[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        for link in self._links:  # from the source on: a stage may be waiting for the one before it
            link.finish()

    def thread(self, items: Iterable[T]) -> Iterator[T]:
        """Iterate in a thread from now on; give what comes out, in its order.

        Args:
            items: what the stage gives, most often a generator over what this method returned for the stage before.
        """
        link = _Link(items, self._depth, self._stopped)
        self._links.append(link)
        link.thread.start()
        return iter(link)
