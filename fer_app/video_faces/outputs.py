"""The files that a video gives: their names, and rows that are on disk while they are written."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from fer_app.errors import InputError
from fer_app.results import Faces
from fer_app.sinks import CsvSink, JsonLinesSink
from fer_app.video import partial_path

# A killed run loses the rows of so many seconds at most.
_FLUSH_S = 1.0


class OutputPaths:
    """The files of one video: `NAME.csv`, `NAME.json` and, when asked for, `NAME.mp4` and `NAME.jsonl`.

    Attributes:
        rows: one file for each format of rows.
        summary: NAME.json.
        video: NAME.mp4; None when no video is written.
    """

    def __init__(self, folder: Path, name: str, *, video: bool, jsonl: bool) -> None:
        """Name the files; none is touched.

        Args:
            folder: where they go.
            name: without a suffix.
            video: whether a video is written.
            jsonl: whether JSON Lines are.
        """
        self.summary = folder / f"{name}.json"
        self.rows = [folder / f"{name}.csv"] + ([folder / f"{name}.jsonl"] if jsonl else [])
        self.video = folder / f"{name}.mp4" if video else None

    @property
    def finished(self) -> list[Path]:
        """The files of a run that ended."""
        return [*([self.video] if self.video else []), *self.rows, self.summary]

    @property
    def unfinished(self) -> list[Path]:
        """The files of a run that goes on or was killed."""
        return [*([partial_path(self.video)] if self.video else []), *map(partial_rows, self.rows)]


def partial_rows(path: Path) -> Path:
    """Give the name that a file of rows has while it is written: `NAME.partial.csv`."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def name_outputs(sources: Iterable[str], folder: Path, *, video: bool, jsonl: bool) -> list[OutputPaths]:
    """Give every video files of its own: `clip.csv` for `clip.mov`, `clip_2.csv` for another `clip`.

    The same videos in the same order have the same names each time. No name is that of one of the videos.

    Args:
        sources: the videos.
        folder: where the files go.
        video: whether videos are written.
        jsonl: whether JSON Lines are.
    """
    sources = list(sources)
    taken = {_folded(Path(source)) for source in sources}
    named = []
    for source in sources:
        for number in itertools.count(1):
            name = Path(source).stem + ("" if number == 1 else f"_{number}")
            paths = OutputPaths(folder, name, video=video, jsonl=jsonl)
            # Whatever is written this time: `clip_2` must not become `clip` because no video is asked for.
            own = {_folded(path) for path in OutputPaths(folder, name, video=True, jsonl=True).finished}
            if not own & taken:
                break
        taken |= own
        named.append(paths)
    return named


class RowFiles:
    """Writes rows to all files of a video at once, under a partial name until the block ends, however it ends."""

    def __init__(self, paths: OutputPaths) -> None:
        """Remember where to write.

        Args:
            paths: of the video.
        """
        self._paths = paths.rows
        self._files: list[TextIO] = []
        self._sinks: list[CsvSink | JsonLinesSink] = []
        self._flushed_s = time.monotonic()

    def __enter__(self) -> Self:
        """Open the files.

        Raises:
            InputError: one cannot be made.
        """
        for path in self._paths:
            with writing_to(path):
                # Without translation: the line ends are part of the format, on every system.
                file = partial_rows(path).open("w", encoding="utf-8", newline="")
            self._files.append(file)
            self._sinks.append((JsonLinesSink if path.suffix == ".jsonl" else CsvSink)(file).__enter__())
        return self

    def write(self, faces: Faces) -> None:
        """Write the faces of one frame.

        Raises:
            InputError: the disk is full, for instance.
        """
        with writing_to(self._paths[0]):
            for sink in self._sinks:
                sink.write(faces)
            if time.monotonic() - self._flushed_s > _FLUSH_S:
                for file in self._files:
                    file.flush()
                self._flushed_s = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the files their names.

        Raises:
            InputError: the disk is full, for instance, and nothing went wrong before that.
        """
        with contextlib.ExitStack() as ending:
            if kind is not None:
                ending.enter_context(contextlib.suppress(InputError))
            for path, file in zip(self._paths, self._files, strict=True):
                with writing_to(path):
                    file.close()
                    partial_rows(path).replace(path)


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn a full disk, say, into an error of ours.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _folded(path: Path) -> str:
    # Some file systems take A.mp4 and a.mp4 for one file.
    return str(path.resolve()).casefold()
