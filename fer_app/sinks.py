"""Write results as JSON Lines or CSV, picture by picture; `docs/formats.md` documents both formats.

`fer_app.parquet_sink` writes the same rows as Parquet.

A sink is a context manager around a path or an open text stream. A path's file appears under its name only when the
sink is closed without an exception.
"""

from __future__ import annotations

import contextlib
import csv
import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from fer_app.atomic_file import replacing
from fer_app.results import LANDMARKS, Faces

_BOX_KEYS = ("x0", "y0", "x1", "y1")


class _TextSink:
    """Opens and closes what the rows are written to."""

    def __init__(self, target: str | Path | TextIO) -> None:
        """Remember where to write; nothing is opened before the `with` block begins.

        Args:
            target: a path, whose file is replaced when the block ends without an exception; or a text stream, which is
                neither closed nor flushed.
        """
        self._target = target
        self._stream: TextIO | None = None
        self._open_files = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Open the file.

        Raises:
            InputError: the path's folder does not exist, or the path is a folder.
        """
        if isinstance(self._target, str | Path):
            with contextlib.ExitStack() as files:
                temporary = files.enter_context(replacing(self._target))
                # Without translation: the line ends are part of the format, on every system.
                self._stream = files.enter_context(temporary.open("w", encoding="utf-8", newline=""))
                self._open_files = files.pop_all()
        else:
            self._stream = self._target
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream = None
        self._open_files.__exit__(kind, error, traceback)

    def _out(self) -> TextIO:
        if self._stream is None:
            raise ValueError("the sink is not open; write inside a `with` block")
        return self._stream


class JsonLinesSink(_TextSink):
    """One JSON object a line for each face, and one for each picture or frame without a face."""

    def write(self, faces: Faces) -> None:
        """Write the faces of one picture or frame."""
        stream = self._out()
        for record in faces.records():
            stream.write(encodable(json.dumps(record, ensure_ascii=False, allow_nan=False)) + "\n")


class CsvSink(_TextSink):
    """A header and one row for each face, and one row for each picture or frame without a face.

    The names of the probability columns are the labels of the first picture written; smoothed probabilities have
    columns if that one has them.
    """

    def __init__(self, target: str | Path | TextIO) -> None:
        """As for every sink: `target` is a path or a text stream."""
        super().__init__(target)
        self._labels: tuple[str, ...] | None = None
        self._smoothed = False

    def write(self, faces: Faces) -> None:
        """Write the faces of one picture or frame.

        Raises:
            ValueError: the labels are not those that the header names, or it names smoothed probabilities and there
                are none, or the reverse.
        """
        rows = csv.writer(self._out(), lineterminator="\n")
        if self._labels is None:
            self._labels, self._smoothed = faces.labels, faces.smoothed_probs is not None
            rows.writerow([encodable(name) for name in csv_columns(faces.labels, smoothed=self._smoothed)])
        elif self._labels != faces.labels:
            raise ValueError(f"{faces.source}: labels {faces.labels} differ from the header's {self._labels}")
        elif self._smoothed != (faces.smoothed_probs is not None):
            raise ValueError(f"{faces.source}: smoothed probabilities are given for some frames and not for others")
        rows.writerows([_cell(value) for value in flattened(record, faces.labels)] for record in faces.records())


def csv_columns(labels: tuple[str, ...], *, smoothed: bool = False) -> list[str]:
    """Return the names of the columns, in order.

    Args:
        labels: the model's.
        smoothed: whether smoothed probabilities are among them.
    """
    return [
        *("schema_version", "source", "frame_index", "time_s", "track_id", "face"),
        *(f"box_{key}" for key in _BOX_KEYS),
        *(f"landmark_{name}_{axis}" for name in LANDMARKS for axis in "xy"),
        *("detection_confidence", "label", "uncertain", "quality"),
        *(f"prob_{label}" for label in labels),
        *(f"smoothed_{label}" for label in labels if smoothed),
    ]


def flattened(record: dict[str, Any], labels: tuple[str, ...]) -> list[Any]:
    """Return the values of one public record in the order of `csv_columns`; what is not known stays None.

    Args:
        record: as `Faces.records` gives it.
        labels: the model's.
    """
    box = record["box"] or {}
    landmarks = record["landmarks"] or {}
    probs = record["probs"] or {}
    return [
        *(record[key] for key in ("schema_version", "source", "frame_index", "time_s", "track_id", "face")),
        *(box.get(key) for key in _BOX_KEYS),
        *(value for name in LANDMARKS for value in landmarks.get(name, (None, None))),
        *(record[key] for key in ("detection_confidence", "label", "uncertain", "quality")),
        *(probs.get(label) for label in labels),
        *((record["smoothed_probs"] or {}).get(label) for label in labels if "smoothed_probs" in record),
    ]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ";".join(value)
    return encodable(str(value))


def encodable(text: str) -> str:
    r"""Spell bytes of a file name that are no UTF-8 as `\udcNN`, which in JSON is the escape of the same character."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
