"""Several videos at once, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_app.cli.annotate_one import Outcome, annotate_one
from fer_app.cli.progress_line import StatusLine
from fer_app.errors import ProcessLostError
from fer_app.session import DEFAULT_GPU, GpuOptions, physical_cores
from fer_app.worker_processes import at_most, serve_parent, stop_signals_held

if TYPE_CHECKING:
    from fer_app.results import Faces
    from fer_app.video import VideoInfo
    from fer_app.video_faces import OutputPaths, Settings

_POLL_S = 0.2


@dataclass(frozen=True)
class Job:
    """What every process works with.

    Attributes:
        model: the classifier's file.
        device: as `fer_app.session.open_session` takes it.
        settings: what is done with each video.
        resume: whether complete ones are left out.
        gpu: what is asked of a CUDA device; all processes keep within its memory together.
        precision: as `fer_app.model_choice.choose_model` takes it.
        backend: what computes the classifier.
    """

    model: Path
    device: str
    settings: Settings
    resume: bool
    gpu: GpuOptions = DEFAULT_GPU
    precision: str = "auto"
    backend: str = "onnx"


def annotate_at_once(
    named: Sequence[tuple[str, OutputPaths]], job: Job, jobs: int, stop: Callable[[], bool]
) -> Iterator[tuple[int, Outcome]]:
    """Do all videos, some at a time; each process gets its share of the processor's cores.

    Args:
        named: the videos and what is written of each.
        job: what is done.
        jobs: how many at a time.
        stop: asked whether to end early; videos that were not begun then have no outcome.

    Yields:
        The place in `named` and how it went, in the order in which they end.

    Raises:
        ProcessLostError: a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    asked, frames, faces = context.Event(), context.Value("q", 0), context.Value("q", 0)
    jobs = at_most(min(jobs, len(named)))
    threads = max(1, physical_cores() // jobs)
    job = replace(job, gpu=job.gpu.share(jobs))
    pool = ProcessPoolExecutor(jobs, context, initializer=_start, initargs=(job, threads, asked, frames, faces))
    line = _JobsLine(len(named))
    try:
        with stop_signals_held():  # the pool starts its processes here, and they inherit what is held back
            futures = {pool.submit(_work, *pair): place for place, pair in enumerate(named)}
        waiting: set[Future[Outcome | None]] = set(futures)
        while waiting:
            finished, waiting = wait(waiting, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            if stop():
                asked.set()
            for future in finished:
                outcome = future.result()
                if outcome is not None:
                    line.clear()
                    yield futures[future], outcome
            line.update(len(named) - len(waiting), frames.value, faces.value)
    except BrokenProcessPool as error:
        raise ProcessLostError(
            "a process was killed, perhaps for want of memory: pass --resume to go on, with fewer --jobs"
        ) from error
    finally:
        line.clear()
        asked.set()
        pool.shutdown(wait=True, cancel_futures=True)


class _JobsLine(StatusLine):
    """Writes videos done, frames in all and a second, and faces."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def update(self, done: int, frames: int, faces: int) -> None:
        """Write when it is time."""
        if self._due():
            rate = frames / (time.monotonic() - self._begun_s)
            self._write(f"{done} of {self._count} videos, {frames:,} frames, {rate:.1f} a second, {faces:,} faces")


# What a worker process works with; set once, when it starts.
_worker: Callable[[str, OutputPaths], Outcome | None]


def _start(job: Job, threads: int, asked: Any, frames: Any, faces: Any) -> None:
    global _worker  # the pool gives its tasks no other place
    serve_parent()
    from fer_app.recognizer import Recognizer

    settings = job.settings
    recognizer = Recognizer(
        job.model,
        device=job.device,
        precision=job.precision,
        backend=job.backend,
        min_face_px=settings.min_face_px,
        max_faces=settings.max_faces,
        uncertain_below=settings.uncertain_below,
        threads=threads,
        gpu=job.gpu,
    )
    progress = _Counted(frames, faces)

    def work(video: str, paths: OutputPaths) -> Outcome | None:
        if asked.is_set():
            return None
        return annotate_one(recognizer, video, paths, settings, resume=job.resume, stop=asked.is_set, progress=progress)

    _worker = work


def _work(video: str, paths: OutputPaths) -> Outcome | None:
    return _worker(video, paths)


class _Counted:
    """Counts frames and faces where the parent can see them."""

    def __init__(self, frames: Any, faces: Any) -> None:
        self._frames, self._faces = frames, faces

    def advance(self, info: VideoInfo, faces: Faces) -> None:
        """Count a frame."""
        del info
        with self._frames.get_lock():
            self._frames.value += 1
        with self._faces.get_lock():
            self._faces.value += len(faces)

    def clear(self) -> None:
        """Do nothing: the parent writes the line."""
