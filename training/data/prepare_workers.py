"""Worker processes that make shards: one thread each, ended by a flag, and never alive longer than their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2

from fer_app.errors import DatasetError
from fer_app.worker_processes import at_most, serve_parent, stop_signals_held
from training.data.prepare_faces import FaceCutter, Settings
from training.data.prepare_shard import Task, write_shard

# Libraries read these once, when they are loaded: too late for a worker to set them itself.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_POLL_S = 0.2


class StopRequested(Exception):  # noqa: N818 - no error: it ends the work on a shard, which leaves no file
    """The run was asked to stop."""


def run_tasks(
    tasks: Sequence[Task],
    settings: Settings,
    out: Path,
    reports: Path,
    *,
    workers: int,
    poll: Callable[[int], bool],
) -> bool:
    """Make all shards; the order in which they come is free.

    Args:
        tasks: one a shard.
        settings: the run's.
        out: folder of the shards.
        reports: folder of their reports.
        workers: processes; with 1 the work is done in this one.
        poll: called several times a second with the number of pictures done; true asks to stop.

    Returns:
        Whether all is done, and not stopped by `poll`.

    Raises:
        DatasetError: a shard cannot be written, or a worker died.
    """
    if workers == 1 or len(tasks) <= 1:
        return _run_here(tasks, settings, out, reports, poll)
    context = multiprocessing.get_context("spawn")
    stop, done = context.Event(), context.Value("q", 0)
    processes = at_most(min(workers, len(tasks)))
    pool = ProcessPoolExecutor(
        processes, context, initializer=_start_worker, initargs=(settings, out, reports, stop, done)
    )
    with _one_thread_each(), pool:
        try:
            with stop_signals_held():  # the pool starts its processes here, and they inherit what is held back
                futures: set[Future[None]] = {pool.submit(_work, task) for task in tasks}
            while futures:
                finished, futures = wait(futures, timeout=_POLL_S, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                if poll(done.value):
                    return False
            return True
        except BrokenProcessPool as error:
            raise DatasetError(
                "a worker process was killed, perhaps for want of memory: pass --resume to go on, with fewer --workers"
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _run_here(tasks: Sequence[Task], settings: Settings, out: Path, reports: Path, poll: Callable[[int], bool]) -> bool:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if poll(done):
            raise StopRequested

    cutter = FaceCutter(settings)
    try:
        for task in tasks:
            write_shard(task, cutter, settings, out, reports, tick)
    except StopRequested:
        return False
    return True


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that start in this block have one thread a library; ours are running already."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# What a worker process works with; set once, when it starts.
_worker: Callable[[Task], None]


def _start_worker(settings: Settings, out: Path, reports: Path, stop: Any, done: Any) -> None:
    global _worker  # the pool gives its tasks no other place
    serve_parent()
    cv2.setNumThreads(1)
    cutter = FaceCutter(settings)

    def tick() -> None:
        with done.get_lock():
            done.value += 1
        if stop.is_set():
            raise StopRequested

    _worker = lambda task: write_shard(task, cutter, settings, out, reports, tick)  # noqa: E731


def _work(task: Task) -> None:
    with contextlib.suppress(StopRequested):  # nobody asks then what came of the shard
        _worker(task)
