"""One video of those that `fer annotate` was given, whatever comes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fer_app.errors import FerError, InputError

if TYPE_CHECKING:
    from fer_app.recognizer import Recognizer
    from fer_app.results import Faces
    from fer_app.video import VideoInfo
    from fer_app.video_faces import OutputPaths, Settings


class Progress(Protocol):
    """What is told while a video is worked on."""

    def advance(self, info: VideoInfo, faces: Faces) -> None:
        """Count a frame."""

    def clear(self) -> None:
        """Make room for other lines."""


@dataclass(frozen=True)
class Outcome:
    """How a video went.

    Attributes:
        summary: what is in its file; None when there is none.
        note: empty when all is well; `complete before`, `failed`, `damaged` or `stopped` otherwise.
        problem: a line for the user; empty when there is nothing to say.
    """

    summary: dict[str, Any] | None
    note: str = ""
    problem: str = ""


def annotate_one(
    recognizer: Recognizer,
    video: str,
    paths: OutputPaths,
    settings: Settings,
    *,
    resume: bool,
    stop: Callable[[], bool],
    progress: Progress,
) -> Outcome:
    """Do one video; what is wrong with it is told, not raised.

    Args:
        recognizer: finds and reads the faces.
        video: a file, camera or stream.
        paths: what is written.
        settings: what is done.
        resume: whether to leave it out when it is complete.
        stop: asked whether to end early.
        progress: told of every frame, and cleared in the end.
    """
    from fer_app.cli.live_input import opened
    from fer_app.video_faces import annotate_video

    try:
        if resume and (done := _complete(video, paths, settings)):
            return Outcome(done, "complete before")
        with opened(video, settings, progress, stop) as source:
            summary = annotate_video(recognizer, source, paths, settings, stop=stop, on_frame=progress.advance)
    except FerError as error:
        return Outcome(None, "failed", f"fer: {error}")
    finally:
        progress.clear()
    if not summary["problem"]:
        return Outcome(summary)
    if stop():
        return Outcome(summary, "stopped", f"fer: {summary['source']}: {summary['problem']}")
    return Outcome(summary, "damaged", f"fer: {summary['problem']}")


def _complete(video: str, paths: OutputPaths, settings: Settings) -> dict[str, Any] | None:
    """Return the summary of an earlier run of the same video that left nothing to do.

    Raises:
        InputError: that run was complete, but of another video, whose results would be lost; or of other settings:
            going on would mix two kinds of results.
    """
    from fer_app.video_faces import read_summary

    summary = read_summary(paths.summary)
    if summary is None or not summary["complete"]:
        return None
    with contextlib.suppress(OSError):
        if summary["source_bytes"] != Path(video).stat().st_size:
            raise InputError(
                f"{paths.summary}: is of another video, {summary['source']} of {summary['source_bytes']} bytes, or of "
                "this one before it was changed; choose another --output, or --overwrite it"
            )
    if not all((paths.summary.parent / name).is_file() for name in summary["settings"]["files"]):
        return None
    differing = [key for key, value in settings.record(paths).items() if summary["settings"].get(key) != value]
    if differing:
        raise InputError(
            f"{paths.summary}: is complete, but made with another {', '.join(differing)}; --overwrite makes it again"
        )
    return summary
