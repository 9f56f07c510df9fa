"""One video, or one recording of a camera or stream, from beginning to end: read, drawn, written."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fer_app.errors import FerError, VideoDecodeError
from fer_app.output_files import writing_to
from fer_app.recognizer import Recognizer
from fer_app.results import Faces
from fer_app.video import VideoInfo, VideoWriter
from fer_app.video.pipeline import Pipeline
from fer_app.video_faces.finders import FaceFinder, choose_finder
from fer_app.video_faces.live import LiveSource
from fer_app.video_faces.outputs import OutputPaths, RowFiles
from fer_app.video_faces.pictures import SummaryPictures
from fer_app.video_faces.sources import FileSource, Source
from fer_app.video_faces.stages import (
    DrawnFaces,
    classify_faces,
    draw_pictures,
    find_faces,
    in_batches,
    without_pictures,
)
from fer_app.video_faces.summary import SUMMARY_VERSION, FaceTally, video_record, write_summary


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is done with a video; together with the model and the video this decides the results.

    Attributes:
        every: read each N-th frame.
        fps: or at most so many frames a second; None for all.
        duration_s: end so many seconds after the first frame; None for the whole video.
        detect_every: search the whole of each N-th of these frames and follow faces in between, as
            `fer_app.video_faces.finders` does; None searches five times a second, and every frame with `blur`, where no
            face may come unseen.
        smooth_s: half-life of the smoothing in seconds; 0 for none.
        blur: make faces unrecognisable.
        min_face_px: smallest face looked for, px.
        max_faces: only the largest so many faces of a frame; None for all.
        uncertain_below: less probable labels are uncertain; None for the model's own threshold.
        model_sha256: of the classifier's file.
        backend: what computes the classifier and in which arithmetic, where that is not ONNX Runtime.
    """

    every: int = 1
    fps: float | None = None
    duration_s: float | None = None
    detect_every: int | None = None
    smooth_s: float = 0.3
    blur: bool = False
    min_face_px: float = 40
    max_faces: int | None = None
    uncertain_below: float | None = None
    model_sha256: str = ""
    backend: str | None = None

    @property
    def search_every(self) -> int | None:
        """`detect_every`, and what stands for None."""
        return 1 if self.detect_every is None and self.blur else self.detect_every

    def record(self, paths: OutputPaths) -> dict[str, Any]:
        """Give what the summary says: the settings, and which files were asked for."""
        return dataclasses.asdict(self) | {"files": [path.name for path in paths.finished]}


def annotate_video(
    recognizer: Recognizer,
    source: str | LiveSource,
    paths: OutputPaths,
    settings: Settings,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_frame: Callable[[VideoInfo, Faces], None] = lambda *_: None,
    finder: FaceFinder | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Read the faces of a video and write what `paths` names.

    A damaged video gives what could be read, and so does one that is stopped or that an error ends; the summary says
    so in `complete` and `problem`.

    Args:
        recognizer: finds and reads the faces.
        source: the video; a camera or stream is received already, and what `settings` say of choosing frames was for
            whoever opened it.
        paths: files to write; those of an earlier run are replaced.
        settings: of choosing frames, smoothing and drawing; the rest is recorded as what the recognizer was made with.
        stop: asked after each frame; when it says yes, what was begun is finished and the rest left out. That is how
            the recording of a camera without a duration ends, which is complete then.
        on_frame: called after each frame that was written.
        finder: finds the faces; None is the one that the settings ask for.
        name: what the results call a file; None is its path.

    Returns:
        The summary, as it was written.

    Raises:
        VideoOpenError: the video cannot be read; nothing is written.
        VideoWriteError: the video cannot be written.
        InputError: another file cannot be written.
        ModelError: the device failed.
    """
    with _opened(source, settings, name) as video:
        # The summary of an earlier run must not speak for the rows of this one if it is killed.
        with writing_to(paths.summary):
            paths.summary.unlink(missing_ok=True)
        finder = finder or choose_finder(recognizer, settings.search_every)
        contract = recognizer.contract
        pictures = SummaryPictures(
            paths,
            video.title,
            contract.labels,
            contract.uncertain_below,
            blur=settings.blur,
            longest_s=video.longest_s,
        )
        run = _Run(recognizer, video, finder, FaceTally(contract.labels, video.longest_s), pictures)
        try:
            with RowFiles(paths) as rows, _video_file(paths, video) as writer:
                problem = run.write(rows, writer, settings, stop, on_frame)
            pictures.write(video.end_s)
        except BaseException as error:
            reason = str(error) if isinstance(error, FerError) else f"stopped by {type(error).__name__}"
            if isinstance(error, FerError) and run.tally.frames:
                with contextlib.suppress(FerError):
                    pictures.write(video.end_s)
            with contextlib.suppress(FerError):
                write_summary(paths.summary, run.summary(settings, paths, writer=None, problem=reason))
            raise
        summary = run.summary(settings, paths, writer, problem)
        write_summary(paths.summary, summary)
    return summary


@dataclass
class _Run:
    """One video that is being read."""

    recognizer: Recognizer
    source: Source
    finder: FaceFinder
    tally: FaceTally
    pictures: SummaryPictures

    def write(
        self,
        rows: RowFiles,
        writer: VideoWriter | None,
        settings: Settings,
        stop: Callable[[], bool],
        on_frame: Callable[[VideoInfo, Faces], None],
    ) -> str | None:
        """Write everything; return why that is not all of the video, or None."""
        damage = None
        with Pipeline() as pipeline:
            batches = pipeline.thread(in_batches(self.source.frames(stop), stop, self.source.batch_frames))
            found = pipeline.thread(find_faces(batches, self.finder))
            read = pipeline.thread(classify_faces(found, self.recognizer, self.source.name, settings.smooth_s))
            uncertain_below = self.recognizer.contract.uncertain_below
            drawn: Iterator[list[DrawnFaces]] = (
                without_pictures(read)
                if writer is None
                else pipeline.thread(draw_pictures(read, uncertain_below, blur=settings.blur))
            )
            try:
                for one in itertools.chain.from_iterable(drawn):
                    if writer is not None:
                        writer.write(one.frame, one.picture)
                    rows.write(one.faces)
                    self.source.written(one.frame)
                    self.tally.add(one.faces)
                    self.pictures.add(one)
                    on_frame(self.source.info, one.faces)
            except VideoDecodeError as error:
                damage = str(error)
            finally:
                self.source.end()
        stopped = stop() and self.source.has_end and not self.source.all_given and damage is None
        if writer is not None:
            writer.close(complete=self.source.whole and not stopped, end_s=self.source.end_s)
        return "stopped before the end" if stopped else damage

    def summary(
        self, settings: Settings, paths: OutputPaths, writer: VideoWriter | None, problem: str | None
    ) -> dict[str, Any]:
        return {
            "summary_version": SUMMARY_VERSION,
            **self.source.record(),
            "complete": problem is None,
            "problem": problem,
            "video": video_record(self.source.info),
            "sound": writer.audio_action if writer is not None else None,
            **self.tally.result(self.source.end_s),
            "frames_searched": self.finder.searched,
            "settings": settings.record(paths),
        }


def _opened(source: str | LiveSource, settings: Settings, name: str | None) -> FileSource | LiveSource:
    if isinstance(source, LiveSource):
        return source
    return FileSource(source, every=settings.every, fps=settings.fps, duration_s=settings.duration_s, name=name)


@contextlib.contextmanager
def _video_file(paths: OutputPaths, source: Source) -> Iterator[VideoWriter | None]:
    if paths.video is None:
        yield None
        return
    with VideoWriter(paths.video, source.info, source_audio=source.sound) as writer:
        yield writer
