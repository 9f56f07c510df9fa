"""The files that a video gives: their names, and rows that are on disk while they are written."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from fer_app.errors import InputError
from fer_app.output_files import folded, short_stem, writing_to
from fer_app.parquet_sink import ParquetSink, import_pyarrow
from fer_app.results import Faces
from fer_app.sinks import CsvSink, JsonLinesSink
from fer_app.video import is_live, partial_path
from fer_app.video_faces.live import recording_name
from fer_app.video_faces.timeline_plot import import_matplotlib

# A killed run loses the rows of so many seconds at most.
_FLUSH_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is written for each video beside its CSV and its summary.

    Attributes:
        video: the video with the faces drawn in.
        jsonl: the rows as JSON Lines.
        parquet: the rows as Parquet.
        timeline: the plot of the expressions over time.
        storyboard: the sheet of the clearest moments.
    """

    video: bool = True
    jsonl: bool = False
    parquet: bool = False
    timeline: bool = False
    storyboard: bool = False

    def check_installed(self) -> None:
        """Say now, and not after an hour of video, that something is missing.

        Raises:
            MissingExtraError: a package that comes with an extra is not installed.
        """
        if self.parquet:
            import_pyarrow()
        if self.timeline:
            import_matplotlib()


EVERYTHING = Wanted(jsonl=True, parquet=True, timeline=True, storyboard=True)


class OutputPaths:
    """The files of one video: `NAME.csv`, `NAME.json`, and `NAME` with another ending for whatever else is wanted.

    Attributes:
        rows: one file for each format of rows, NAME.csv first.
        summary: NAME.json.
        video: NAME.mp4; None when no video is written.
        timeline: NAME.timeline.png, or None.
        storyboard: NAME.storyboard.jpg, or None.
    """

    def __init__(self, folder: Path, name: str, wanted: Wanted) -> None:
        """Name the files; none is touched.

        Args:
            folder: where they go.
            name: without a suffix.
            wanted: which of them are written.
        """

        def path(suffix: str, is_wanted: bool = True) -> Path | None:
            return folder / f"{name}{suffix}" if is_wanted else None

        self.summary = folder / f"{name}.json"
        rows = [path(".csv"), path(".jsonl", wanted.jsonl), path(".parquet", wanted.parquet)]
        self.rows = [file for file in rows if file]
        self.video = path(".mp4", wanted.video)
        self.timeline = path(".timeline.png", wanted.timeline)
        self.storyboard = path(".storyboard.jpg", wanted.storyboard)

    @property
    def finished(self) -> list[Path]:
        """The files of a run that ended."""
        pictures = [path for path in (self.timeline, self.storyboard) if path]
        return [*([self.video] if self.video else []), *self.rows, *pictures, self.summary]

    @property
    def unfinished(self) -> list[Path]:
        """The files of a run that goes on or was killed."""
        return [*([partial_path(self.video)] if self.video else []), *map(partial_rows, self.rows)]


def partial_rows(path: Path) -> Path:
    """Give the name that a file of rows has while it is written: `NAME.partial.csv`."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def name_outputs(sources: Iterable[str], folder: Path, wanted: Wanted) -> list[OutputPaths]:
    """Give every video files of its own: `clip.csv` for `clip.mov`, `clip_2.csv` for another `clip`.

    The same videos in the same order have the same names each time. No name is that of one of the videos. A camera's
    or stream's has the time in it, so that no recording takes the place of another.

    Args:
        sources: the videos.
        folder: where the files go.
        wanted: which files each video gets.
    """
    sources = list(sources)
    taken = {folded(Path(source)) for source in sources}
    named = []
    now = datetime.datetime.now()
    for source in sources:
        stem = recording_name(source, now) if is_live(source) else short_stem(source)
        for number in itertools.count(1):
            name = stem + ("" if number == 1 else f"_{number}")
            paths = OutputPaths(folder, name, wanted)
            # Whatever is written this time: `clip_2` must not become `clip` because no video is asked for.
            own = {folded(path) for path in OutputPaths(folder, name, EVERYTHING).finished}
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
        self._files: list[IO[Any]] = []
        self._sinks: list[CsvSink | JsonLinesSink | ParquetSink] = []
        self._flushed_s = time.monotonic()

    def __enter__(self) -> Self:
        """Open the files.

        Raises:
            InputError: one cannot be made.
            MissingExtraError: Parquet is wanted, and pyarrow is not installed.
        """
        for path in self._paths:
            with writing_to(path):
                if path.suffix == ".parquet":
                    self._open(ParquetSink, partial_rows(path).open("wb"))
                else:
                    # Without translation: the line ends are part of the format, on every system.
                    file = partial_rows(path).open("w", encoding="utf-8", newline="")
                    self._open(JsonLinesSink if path.suffix == ".jsonl" else CsvSink, file)
        return self

    def _open(self, sink: Callable[[Any], CsvSink | JsonLinesSink | ParquetSink], file: IO[Any]) -> None:
        self._files.append(file)
        self._sinks.append(sink(file).__enter__())

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
            # What goes wrong with one of them is told when all have ended: on Windows nothing takes the place of a
            # file that another program has open.
            for path, file, sink in zip(self._paths, self._files, self._sinks, strict=True):
                ending.callback(_end, path, file, sink)


def _end(path: Path, file: IO[Any], sink: CsvSink | JsonLinesSink | ParquetSink) -> None:
    """Give a file its name; however that ends, what was written is whole: Parquet needs its last part.

    Raises:
        InputError: the disk is full, for instance.
    """
    partial = partial_rows(path)
    with writing_to(partial):
        sink.__exit__(None, None, None)
        file.close()
    with writing_to(path):
        partial.replace(path)
