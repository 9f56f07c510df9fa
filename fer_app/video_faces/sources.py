"""Where the frames of a video come from: what a run asks of a source, and files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from fer_app.errors import VideoDecodeError, VideoOpenError
from fer_app.video import VideoFrame, VideoInfo, VideoReader


class Source(Protocol):
    """An open video.

    Attributes:
        name: what rows and the summary call it.
        title: what pictures of it are headed with.
        info: what is known of it.
        sound: the file that its sound is taken from; None without.
        has_end: whether it ends by itself, so that to stop it is to miss something.
        all_given: whether `frames` came to the end by itself, and not because it should stop.
        whole: whether its sound is wanted to its end, too.
        batch_frames: how many frames may be waited for before they are worked on.
        longest_s: a frame counts as shown until the next one, but no longer than that, seconds.
    """

    name: str
    title: str
    info: VideoInfo
    sound: str | None
    has_end: bool
    all_given: bool
    whole: bool
    batch_frames: int | None
    longest_s: float

    @property
    def end_s(self) -> float:
        """When the last frame that was given stops being shown, seconds."""
        ...

    def frames(self, stop: Callable[[], bool]) -> Iterator[VideoFrame]:
        """Give the chosen frames, once; one without an end gives them until it should stop.

        Raises:
            VideoDecodeError: after the last one that could be read, if something was damaged.
        """
        ...

    def written(self, frame: VideoFrame) -> None:
        """Learn that the rows of a frame are written."""
        ...

    def end(self) -> None:
        """Give no more frames; may be called from any thread."""
        ...

    def record(self) -> dict[str, Any]:
        """Give what the summary says of this source."""
        ...


class FileSource:
    """A video file, which is read as fast as it is worked on; see `Source` for the rest."""

    has_end: bool = True
    batch_frames: int | None = None
    longest_s: float = float("inf")

    def __init__(
        self, path: str, *, every: int, fps: float | None, duration_s: float | None, name: str | None = None
    ) -> None:
        """Open it.

        Args:
            path: the file.
            every: as `VideoReader` takes it.
            fps: likewise.
            duration_s: take so many seconds from its first frame on; None for all.
            name: what the results call it; None is `path`.

        Raises:
            VideoOpenError: it cannot be read.
        """
        self._path, self.name = path, path if name is None else name
        self.title = Path(self.name).name
        self.sound: str | None = path
        self._reader = VideoReader(path, every=every, fps=fps)
        try:  # now: it may be moved away before it is read to its end
            self._bytes = Path(path).stat().st_size
        except OSError as error:
            self._reader.close()
            raise VideoOpenError(f"{path}: {error.strerror}") from error
        self.info = self._reader.info
        self.whole, self.all_given = True, False
        self._duration_s, self._cut_s = duration_s, float("inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    @property
    def end_s(self) -> float:
        """See `Source`."""
        return min(self._reader.end_s, self._cut_s)

    def frames(self, stop: Callable[[], bool]) -> Iterator[VideoFrame]:
        """See `Source`; who reads them stops by asking for no more."""
        del stop
        try:
            yield from self._chosen()
            self.all_given = True
        except VideoDecodeError as error:
            text = str(error).replace(self._path, self.name)
            raise VideoDecodeError(text, error.frames_read, error.time_s) from error

    def _chosen(self) -> Iterator[VideoFrame]:
        for frame in self._reader:
            if self._duration_s is not None:
                if self._cut_s == float("inf"):
                    self._cut_s = frame.time_s + self._duration_s
                if frame.time_s >= self._cut_s:
                    self.whole = False
                    return
            yield frame

    def written(self, frame: VideoFrame) -> None:
        """See `Source`."""

    def end(self) -> None:
        """See `Source`: nothing is waited for here."""

    def record(self) -> dict[str, Any]:
        """See `Source`."""
        return {"source": self.name, "source_bytes": self._bytes}
