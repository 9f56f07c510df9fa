"""A video in, HTML out: how far it is, and then the annotated video with its timeline, table and files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fer_app.errors import FerError, InputError
from fer_app.output_files import short_stem
from fer_app.recognizer import Recognizer
from fer_app.results import Faces
from fer_app.ui.html import named, problem
from fer_app.ui.stop_switches import StopSwitch
from fer_app.ui.video_view import show_progress, show_result
from fer_app.video import VideoInfo, VideoReader
from fer_app.video_faces import OutputPaths, Settings, Wanted, annotate_video
from fer_app.video_faces.timeline import ExpressionTimeline, Timeline

# So often is told how far it is, seconds.
_TOLD_S = 0.3


@dataclass
class Progress:
    """How far a video is.

    Attributes:
        begun_s: when its first frame was asked for, as `time.monotonic` gives it.
        frames: so many were written.
        faces: so many faces were read in them.
        frame_index: of the last one in the video.
        info: what is known of the video; None before the first frame.
    """

    begun_s: float = field(default_factory=time.monotonic)
    frames: int = 0
    faces: int = 0
    frame_index: int = 0
    info: VideoInfo | None = None

    def add(self, info: VideoInfo, faces: Faces) -> None:
        """Count a frame."""
        self.info = info
        self.frames += 1
        self.faces += len(faces)
        self.frame_index = faces.frame_index or 0


@dataclass(frozen=True)
class Annotated:
    """What a video gave.

    Attributes:
        summary: as `annotate_video` returns it.
        paths: the files that are there.
        timeline: the expressions over time.
    """

    summary: dict[str, Any]
    paths: list[Path]
    timeline: Timeline


class VideoJob:
    """One video that is being annotated in a thread of its own."""

    def __init__(
        self,
        recognizer: Recognizer,
        source: Path,
        folder: Path,
        wanted: Wanted,
        settings: Settings,
        *,
        max_minutes: float,
        switch: StopSwitch,
        at_work: Callable[[], None] = lambda: None,
    ) -> None:
        """Look at the video.

        Args:
            recognizer: reads the faces.
            source: the video.
            folder: empty; gets the files.
            wanted: which of them.
            settings: as `annotate_video` takes them.
            max_minutes: a longer video is refused, and one that hides its length is read so far.
            switch: ends it early.
            at_work: called from time to time while the video is needed.

        Raises:
            VideoOpenError: it is no video.
            InputError: it is too long.
            MissingExtraError: a file is wanted that needs an extra.
        """
        wanted.check_installed()
        with VideoReader(source) as reader:
            length_s = reader.info.duration_s
        if length_s is not None and length_s > 60 * max_minutes:
            raise InputError(f"the video is {length_s / 60:.1f} minutes long; the limit is {max_minutes:g} minutes")
        self.progress = Progress()
        self.result: Annotated | None = None
        self.error = ""
        self._recognizer, self._source, self._settings = recognizer, source, settings
        self._paths = OutputPaths(folder, short_stem(source), wanted)
        self._switch, self._most_s = switch, 60 * max_minutes
        self._at_work = at_work
        self._first_s: float | None = None
        self._last_s = 0.0
        self._thread = threading.Thread(target=self._run, name="video")

    def updates(self) -> Iterator[Progress]:
        """Run, and tell how far it is from time to time; whoever stops listening stops it."""
        self._thread.start()
        try:
            while self._thread.is_alive():
                self._at_work()
                yield self.progress
                self._thread.join(_TOLD_S)
        finally:
            if self._thread.is_alive():
                self._switch.press()
                self._thread.join()

    def _run(self) -> None:
        timeline = ExpressionTimeline(self._recognizer.contract.labels)

        def count(info: VideoInfo, faces: Faces) -> None:
            self.progress.add(info, faces)
            timeline.add(faces)
            self._last_s = faces.time_s or 0.0
            if self._first_s is None:
                self._first_s = self._last_s

        try:
            summary = annotate_video(
                self._recognizer,
                str(self._source),
                self._paths,
                self._settings,
                stop=lambda: self._switch.pressed() or self._last_s > self._most_s,
                on_frame=count,
                name=self._source.name,
            )
        except FerError as error:
            self.error = named(error, self._source)
            return
        except Exception as error:  # the thread's traceback goes to the terminal, a sentence to the page
            self.error = named(f"{self._source.name}: failed, {type(error).__name__}: {error}", self._source)
            raise
        there = [path for path in self._paths.finished if path.is_file()]
        self.result = Annotated(summary, there, timeline.result((self._first_s or 0.0) + summary["seconds"]))


def show_video(path: str | None, make_job: Callable[[], VideoJob], model: str = "") -> Iterator[str]:
    """Annotate a video, and show how far it is and then what it gave.

    Args:
        path: of the video; None when none was chosen.
        make_job: makes the job; what is wrong with the video becomes a sentence.
        model: what its classifier is called, which is told.
    """
    try:
        job = make_job()
    except FerError as error:
        yield problem(named(error, path or ""))
        return
    for progress in job.updates():
        yield show_progress(progress)
    if job.error:
        yield problem(job.error)
    elif job.result is not None:
        yield show_result(job.result, model)
