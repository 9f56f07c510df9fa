"""Write results as Parquet, picture by picture: the rows and names of the CSV, with types; see `docs/formats.md`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from fer_app.atomic_file import replacing
from fer_app.errors import MissingExtraError
from fer_app.results import Faces
from fer_app.sinks import csv_columns, encodable, flattened

# Rows that are in memory until they are written together: readers like large groups, and these take some 10 MB.
ROW_GROUP_ROWS = 4096

# Of columns that are not numbers with a fraction; the names are methods of pyarrow.
_TYPES = {
    "schema_version": "int32",
    "source": "string",
    "frame_index": "int64",
    "track_id": "int64",
    "face": "int32",
    "label": "string",
    "uncertain": "bool_",
}


def import_pyarrow() -> Any:
    """Import pyarrow with its Parquet part, which takes a moment.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError('Parquet needs pyarrow: pip install "fer-mimic[parquet]"') from error
    return pyarrow


class ParquetSink:
    """One row for each face, and one for each picture or frame without a face, in groups of `ROW_GROUP_ROWS`.

    The columns are those of `csv_columns`, of the labels of the first picture written; smoothed probabilities have
    columns if that one has them. A file without its end, which is written when the block ends, cannot be read.
    """

    def __init__(self, target: str | Path | BinaryIO) -> None:
        """Remember where to write; nothing is opened before the `with` block begins.

        Args:
            target: a path, whose file is replaced when the block ends without an exception; or a binary stream, which
                is not closed, and has all rows written so far when the block ends in any way.
        """
        self._target = target
        self._stream: BinaryIO | None = None
        self._open_files = contextlib.ExitStack()
        self._labels: tuple[str, ...] | None = None
        self._smoothed = False
        self._rows: list[list[Any]] = []
        self._schema: Any = None
        self._writer: Any = None

    def __enter__(self) -> Self:
        """Open the file.

        Raises:
            InputError: the path's folder does not exist, or the path is a folder.
            MissingExtraError: pyarrow is not installed.
        """
        import_pyarrow()
        if isinstance(self._target, str | Path):
            with contextlib.ExitStack() as files:
                temporary = files.enter_context(replacing(self._target))
                self._stream = files.enter_context(temporary.open("wb"))
                self._open_files = files.pop_all()
        else:
            self._stream = self._target
        return self

    def write(self, faces: Faces) -> None:
        """Write the faces of one picture or frame.

        Raises:
            ValueError: the labels are not those of the first picture, or smoothed probabilities are given for some and
                not for others.
        """
        if self._stream is None:
            raise ValueError("the sink is not open; write inside a `with` block")
        smoothed = faces.smoothed_probs is not None
        if self._labels is None:
            self._begin(faces.labels, smoothed)
        elif self._labels != faces.labels:
            raise ValueError(f"{faces.source}: labels {faces.labels} differ from the first picture's {self._labels}")
        elif self._smoothed != smoothed:
            raise ValueError(f"{faces.source}: smoothed probabilities are given for some frames and not for others")
        self._rows += (flattened(record, faces.labels) for record in faces.records())
        while len(self._rows) >= ROW_GROUP_ROWS:
            self._write_group(self._rows[:ROW_GROUP_ROWS])
            del self._rows[:ROW_GROUP_ROWS]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write what is left and the end of the file, which then has its name if there was no exception."""
        try:
            if self._writer is None:
                self._begin((), smoothed=False)
            if self._rows:
                self._write_group(self._rows)
            self._writer.close()
        except BaseException as failure:
            self._open_files.__exit__(type(failure), failure, failure.__traceback__)
            raise
        else:
            self._open_files.__exit__(kind, error, traceback)
        finally:
            self._stream, self._rows = None, []

    def _begin(self, labels: tuple[str, ...], smoothed: bool) -> None:
        pyarrow = import_pyarrow()
        self._labels, self._smoothed = labels, smoothed
        types = {name: getattr(pyarrow, kind)() for name, kind in _TYPES.items()}
        types["quality"] = pyarrow.list_(pyarrow.string())
        names = [encodable(name) for name in csv_columns(labels, smoothed=smoothed)]
        self._schema = pyarrow.schema([(name, types.get(name, pyarrow.float64())) for name in names])
        self._writer = pyarrow.parquet.ParquetWriter(self._stream, self._schema, compression="zstd")

    def _write_group(self, rows: list[list[Any]]) -> None:
        pyarrow = import_pyarrow()
        columns = [
            pyarrow.array([_encodable_value(value) for value in values], field.type)
            for field, values in zip(self._schema, zip(*rows, strict=True), strict=True)
        ]
        table = pyarrow.table(columns, schema=self._schema)
        self._writer.write_table(table, row_group_size=len(rows))


def _encodable_value(value: Any) -> Any:
    return encodable(value) if isinstance(value, str) else value
