"""Cameras and streams as what `fer annotate` reads: what is refused, and what is told while they are recorded."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import typer

from fer_app.cli.progress_line import ProgressLine
from fer_app.video import VideoInfo, is_live, shown_name
from fer_app.video_faces import LiveSource, Settings

_LINES = 10


def refuse_live_contradictions(
    videos: Sequence[str], *, duration: float | None, every: int, resume: bool, jobs: int
) -> None:
    """Take what makes no sense for wrong usage.

    Args:
        videos: the sources, with the files of a folder in its place.
        duration: when a recording ends, in seconds; None for when it is stopped.
        every: which frames of a video are taken.
        resume: whether complete videos are left out.
        jobs: how many videos are worked on at once.

    Raises:
        typer.BadParameter: a duration that is none; `--every`, `--resume` or `--jobs` with a live source; a live source
            beside others without an end that lets the next one begin.
    """
    if duration is not None and not 0 < duration < float("inf"):
        raise typer.BadParameter(f"{duration} is no number of seconds", param_hint="--duration")
    live = [shown_name(video) for video in videos if is_live(video)]
    if not live:
        return
    if len(videos) > 1 and duration is None:
        raise typer.BadParameter(
            f"{live[0]} goes on until it is stopped; name it alone, or give --duration to take one after another",
            param_hint="VIDEOS",
        )
    if jobs > 1:
        raise typer.BadParameter(
            f"{live[0]} is live: others beside it would take its time; record it by itself", param_hint="--jobs"
        )
    if every > 1:
        raise typer.BadParameter(
            f"{live[0]} gives whichever picture is the newest, so there is no {every}th; give --fps",
            param_hint="--every",
        )
    if resume:
        raise typer.BadParameter(
            f"{live[0]} is live, and what was missed is gone; each recording has files of its own",
            param_hint="--resume",
        )


def progress_of(video: str, settings: Settings) -> ProgressLine:
    """Return the line that tells how far a video, or a recording, has come."""
    return LiveProgress(shown_name(video)) if is_live(video) else ProgressLine(Path(video).name, settings.duration_s)


class LiveProgress(ProgressLine):
    """Writes how much was recorded, frames a second, faces, and how far behind the camera the last row was."""

    def __init__(self, name: str) -> None:
        """Begin the clock.

        Args:
            name: of the camera or stream.
        """
        super().__init__(name)
        self.live: LiveSource | None = None
        # Frames a second are those of the last few lines: a mean over an outage says nothing of now.
        self._written: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=_LINES)

    def tell_away(self, reason: str) -> None:
        """Say that the source went away."""
        self.say(f"fer: {self._name}: away ({reason}); trying again")

    def tell_back(self, away_s: float) -> None:
        """Say that it is back."""
        self.say(f"fer: {self._name}: back after {away_s:.1f} s")

    def _text(self, info: VideoInfo, done: int, elapsed_s: float) -> str:
        del info, done
        seconds, lag_s = (int(self.live.clock_s), self.live.lag_s) if self.live is not None else (0, 0.0)
        since_s, frames = self._written[0]
        rate = (self._frames - frames) / (elapsed_s - since_s)
        self._written.append((elapsed_s, self._frames))
        return (
            f"{self._name}: {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} recorded, "
            f"{rate:.1f} a second, {self._faces:,} faces, {lag_s:.2f} s behind"
        )


@contextlib.contextmanager
def opened(video: str, settings: Settings, progress: object, stop: Callable[[], bool]) -> Iterator[str | LiveSource]:
    """Connect to what is live, for as long as the block runs; a file stays its name.

    Raises:
        VideoOpenError: nothing answers, or it sends no video, or `stop` said yes before it did.
    """
    if not isinstance(progress, LiveProgress):
        yield video
        return
    with LiveSource(
        video,
        fps=settings.fps,
        duration_s=settings.duration_s,
        on_away=progress.tell_away,
        on_back=progress.tell_back,
        stop=stop,
    ) as live:
        progress.live = live
        yield live
