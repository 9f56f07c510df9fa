from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_app.errors import InputError
from fer_app.labels import LABELS
from fer_app.results import NO_TRACK, Detections, Faces
from fer_app.sinks import CsvSink, JsonLinesSink, csv_columns


def faces(n: int = 1, **changes: Any) -> Faces:
    probs = np.zeros((n, 8), np.float32)
    probs[:, 1], probs[:, 2] = 0.75, 0.25
    boxes = np.tile(np.array([[181.0772, 62.0639, 267.8383, 172.0715]], np.float32), (n, 1))
    landmarks = np.tile(np.arange(10, dtype=np.float32).reshape(1, 5, 2), (n, 1, 1))
    values: dict[str, Any] = {
        "source": "photo.jpg",
        "width": 512,
        "height": 512,
        "detections": Detections(boxes, np.full(n, 0.99, np.float32), landmarks),
        "probs": probs,
        "labels": LABELS,
        "uncertain": np.zeros(n, bool),
        "quality": ((),) * n,
    }
    return Faces(**(values | changes))


RESULTS = [
    faces(2, quality=(("tiny", "blurred"), ()), uncertain=np.array([True, False])),
    faces(0, source="wall.jpg"),
    faces(1, source="crop.png", detections=Detections.whole_picture(48, 48)),
    faces(2, source="clip.mp4", frame_index=7, time_s=0.28, track_ids=np.array([3, NO_TRACK])),
]


def as_text(sink_class: type[JsonLinesSink] | type[CsvSink], results: list[Faces]) -> str:
    stream = io.StringIO(newline="")
    with sink_class(stream) as sink:
        for result in results:
            sink.write(result)
    return stream.getvalue()


def test_json_lines_are_the_records() -> None:
    text = as_text(JsonLinesSink, RESULTS)
    assert text.endswith("}\n")
    read = [json.loads(line) for line in text.splitlines()]
    assert read == [record for result in RESULTS for record in result.records()]
    assert [line["face"] for line in read] == [0, 1, None, 0, 0, 1]
    assert "NaN" not in text


def test_json_of_a_crop_has_null_for_what_nobody_looked_for() -> None:
    text = as_text(JsonLinesSink, [RESULTS[2]])
    assert '"landmarks": null, "detection_confidence": null' in text


def test_csv_header_and_rows() -> None:
    rows = list(csv.reader(io.StringIO(as_text(CsvSink, RESULTS))))
    header = rows[0]
    assert header[:6] == ["schema_version", "source", "frame_index", "time_s", "track_id", "face"]
    assert header[6:10] == ["box_x0", "box_y0", "box_x1", "box_y1"]
    assert header[10:13] == ["landmark_left_eye_x", "landmark_left_eye_y", "landmark_right_eye_x"]
    assert header[18:20] == ["landmark_right_mouth_x", "landmark_right_mouth_y"]
    assert header[20:24] == ["detection_confidence", "label", "uncertain", "quality"]
    assert header[24:] == [f"prob_{label}" for label in LABELS]
    assert header == csv_columns(LABELS)
    assert len(rows) == 7
    assert {len(row) for row in rows} == {32}
    cells = [dict(zip(header, row, strict=True)) for row in rows[1:]]
    assert cells[0]["box_x0"] == "181.08"
    assert cells[0]["landmark_right_mouth_y"] == "9.0"
    assert cells[0]["uncertain"] == "true"
    assert cells[0]["quality"] == "tiny;blurred"
    assert cells[0]["prob_happiness"] == "0.75"
    assert (cells[1]["uncertain"], cells[1]["quality"]) == ("false", "")
    assert {name: cell for name, cell in cells[2].items() if cell} == {"schema_version": "1", "source": "wall.jpg"}
    assert cells[3]["detection_confidence"] == cells[3]["landmark_nose_x"] == ""
    assert cells[3]["box_x1"] == "48.0"
    assert (cells[4]["track_id"], cells[5]["track_id"]) == ("3", "")
    assert (cells[4]["frame_index"], cells[4]["time_s"]) == ("7", "0.28")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1), st.integers(0, 3))
def test_any_source_round_trips(source: str, n: int) -> None:
    result = faces(n, source=source)
    lines = as_text(JsonLinesSink, [result]).split("\n")
    assert [json.loads(line) for line in lines[:-1]] == result.records()
    rows = list(csv.DictReader(io.StringIO(as_text(CsvSink, [result]), newline="")))
    assert [row["source"] for row in rows] == [source] * max(n, 1)


def test_quotes_commas_and_line_breaks_in_a_name() -> None:
    source = 'a "b", c;\nd.jpg'
    (row,) = csv.DictReader(io.StringIO(as_text(CsvSink, [faces(source=source)]), newline=""))
    assert row["source"] == source
    (line, rest) = as_text(JsonLinesSink, [faces(source=source)]).split("\n")
    assert rest == ""
    assert json.loads(line)["source"] == source


@pytest.mark.parametrize("sink_class", [JsonLinesSink, CsvSink])
def test_files_are_utf8_with_plain_line_ends(tmp_path: Path, sink_class: type[JsonLinesSink] | type[CsvSink]) -> None:
    path = tmp_path / "gesichter_笑.txt"
    with sink_class(path) as sink:
        for result in (
            faces(source="Überraschung 😀.jpg"),
            faces(source=b"latin\xe9.jpg".decode("utf-8", "surrogateescape")),
        ):
            sink.write(result)
        assert not path.exists()
    data = path.read_bytes()
    assert "Überraschung 😀.jpg" in data.decode("utf-8")
    assert b"latin\\udce9.jpg" in data
    assert b"\r" not in data
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if sink_class is JsonLinesSink:
        assert json.loads(data.splitlines()[1])["source"].encode("utf-8", "surrogateescape") == b"latin\xe9.jpg"


@pytest.mark.parametrize("sink_class", [JsonLinesSink, CsvSink])
def test_an_exception_leaves_the_old_file(tmp_path: Path, sink_class: type[JsonLinesSink] | type[CsvSink]) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")

    def interrupted() -> None:
        with sink_class(path) as sink:
            sink.write(faces())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_nothing_written_is_an_empty_file(tmp_path: Path) -> None:
    for sink_class in (JsonLinesSink, CsvSink):
        with sink_class(tmp_path / "none.txt"):
            pass
        assert (tmp_path / "none.txt").read_bytes() == b""


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"), JsonLinesSink(tmp_path / "no" / "out.jsonl"):
        pass
    with pytest.raises(InputError, match="is a folder"), JsonLinesSink(tmp_path):
        pass


def test_a_stream_stays_open() -> None:
    stream = io.StringIO()
    with JsonLinesSink(stream) as sink:
        sink.write(faces())
    assert not stream.closed


@pytest.mark.parametrize("sink_class", [JsonLinesSink, CsvSink])
def test_writing_outside_the_block_is_an_error(sink_class: type[JsonLinesSink] | type[CsvSink]) -> None:
    sink = sink_class(io.StringIO())
    with pytest.raises(ValueError, match="not open"):
        sink.write(faces())
    with sink:
        pass
    with pytest.raises(ValueError, match="not open"):
        sink.write(faces())


def test_csv_keeps_to_one_set_of_labels() -> None:
    other = faces(labels=("a", *LABELS[1:]))
    with CsvSink(io.StringIO()) as sink:
        sink.write(faces())
        with pytest.raises(ValueError, match=r"photo\.jpg: labels .* differ from the header's"):
            sink.write(other)


def test_the_documented_examples_are_what_is_written(repository: Path) -> None:
    """The blocks of docs/formats.md are this program's own output, byte for byte."""
    text = (repository / "docs" / "formats.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(jsonl|csv)\n(.*?)```", text, re.DOTALL))
    landmarks = [[246.86, 103.65], [205.07, 101.69], [224.75, 128.88], [245.38, 141.84], [201.8, 139.23]]
    astronaut = faces(
        source="examples/astronaut.jpg",
        detections=Detections(np.array([[181.08, 62.06, 267.84, 172.07]]), np.array([0.999998]), np.array([landmarks])),
        probs=np.array([[0.052, 0.913, 0.021, 0.004, 0.003, 0.003, 0.003, 0.001]]),
    )
    wall = faces(0, source="wall.jpg")
    assert blocks["jsonl"] == as_text(JsonLinesSink, [astronaut, wall])
    assert blocks["csv"] == as_text(CsvSink, [astronaut, wall])
