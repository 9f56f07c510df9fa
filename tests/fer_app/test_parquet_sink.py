from __future__ import annotations

import csv
import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.fer_app.test_sinks import RESULTS, as_text, faces

from fer_app import parquet_sink
from fer_app.errors import InputError, MissingExtraError
from fer_app.labels import LABELS
from fer_app.parquet_sink import ParquetSink
from fer_app.results import NO_TRACK, Faces
from fer_app.sinks import CsvSink, csv_columns, flattened

FRAMES = [
    faces(
        i % 3,
        source="clip.mp4",
        frame_index=i,
        time_s=i / 25,
        track_ids=np.arange(i % 3) - 1,
        smoothed_probs=np.tile(np.eye(8, dtype=np.float32)[3], (i % 3, 1)),
    )
    for i in range(50)
]


needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs the extra parquet")


def write(path: Path, results: list[Faces]) -> None:
    with ParquetSink(path) as sink:
        for result in results:
            sink.write(result)


@needs_pyarrow
def test_values_and_types_are_the_records(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    write(path, RESULTS)
    table = pq.read_table(path)
    assert table.column_names == csv_columns(LABELS)
    expected = [flattened(record, LABELS) for result in RESULTS for record in result.records()]
    assert [list(row.values()) for row in table.to_pylist()] == expected
    types = {field.name: field.type for field in table.schema}
    assert types["schema_version"] == types["face"] == pa.int32()
    assert types["frame_index"] == types["track_id"] == pa.int64()
    assert types["time_s"] == types["box_x0"] == types["prob_anger"] == pa.float64()
    assert types["source"] == types["label"] == pa.string()
    assert types["uncertain"] == pa.bool_()
    assert types["quality"] == pa.list_(pa.string())
    wall = table.to_pylist()[2]
    assert {name: value for name, value in wall.items() if value is not None} == {
        "schema_version": 1,
        "source": "wall.jpg",
        "quality": [],
    }
    assert table.to_pylist()[0]["quality"] == ["tiny", "blurred"]
    assert NO_TRACK not in table["track_id"].to_pylist()


@needs_pyarrow
def test_it_says_what_the_csv_says(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write(tmp_path / "rows.parquet", FRAMES)
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    lines = list(csv.DictReader(io.StringIO(as_text(CsvSink, FRAMES), newline="")))
    assert list(rows[0]) == list(lines[0])
    spelled = {True: "true", False: "false"}
    for row, line in zip(rows, lines, strict=True):
        row["quality"] = ";".join(row["quality"])
        cells = {
            name: spelled[value] if isinstance(value, bool) else "" if value is None else str(value)
            for name, value in row.items()
        }
        assert cells == line


@needs_pyarrow
def test_rows_leave_memory_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr(parquet_sink, "ROW_GROUP_ROWS", 8)
    with ParquetSink(tmp_path / "rows.parquet") as sink:
        for result in FRAMES:
            sink.write(result)
            assert len(sink._rows) < 8
    file = pq.ParquetFile(tmp_path / "rows.parquet")
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sizes[:-1] == [8] * (len(sizes) - 1)
    assert sum(sizes) == sum(len(result.records()) for result in FRAMES)
    assert file.read()["frame_index"].to_pylist() == [i for i in range(50) for _ in FRAMES[i].records()]


@needs_pyarrow
def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write(tmp_path / "rows.parquet", [faces(source=b"latin\xe9.jpg".decode("utf-8", "surrogateescape"))])
    assert pq.read_table(tmp_path / "rows.parquet")["source"].to_pylist() == ["latin\\udce9.jpg"]


@needs_pyarrow
def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("old")

    def interrupted() -> None:
        with ParquetSink(path) as sink:
            sink.write(faces())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["rows.parquet"]


@needs_pyarrow
def test_a_stream_stays_open_and_is_whole_however_the_block_ends() -> None:
    import pyarrow.parquet as pq

    stream = io.BytesIO()

    def interrupted() -> None:
        with ParquetSink(stream) as sink:
            sink.write(faces(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not stream.closed
    assert pq.read_table(stream).num_rows == 2


@needs_pyarrow
def test_nothing_written_is_a_table_without_rows(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write(tmp_path / "none.parquet", [])
    table = pq.read_table(tmp_path / "none.parquet")
    assert (table.num_rows, table.column_names) == (0, csv_columns(()))


@needs_pyarrow
def test_wrong_use(tmp_path: Path) -> None:
    sink = ParquetSink(io.BytesIO())
    with pytest.raises(ValueError, match="not open"):
        sink.write(faces())
    with sink:
        sink.write(faces())
        with pytest.raises(ValueError, match="differ from the first"):
            sink.write(faces(labels=("a", *LABELS[1:])))
        with pytest.raises(ValueError, match="for some frames"):
            sink.write(FRAMES[1])
    with pytest.raises(InputError, match="is a folder"), ParquetSink(tmp_path):
        pass


def test_a_missing_pyarrow_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"fer-mimic\[parquet\]"), ParquetSink(tmp_path / "rows.parquet"):
        pass
    assert list(tmp_path.iterdir()) == []
