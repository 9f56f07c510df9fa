"""Small files: whole or not at all, and one kind of error."""

import json
from pathlib import Path

import pytest

from fer_app.errors import CheckpointError, DatasetError
from training.json_file import read_json, write_json


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert read_json(path) is None
    write_json(path, {"a": [1, 2.5, None]})
    assert read_json(path) == {"a": [1, 2.5, None]}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe"])
def test_damage_is_one_error_of_the_callers_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.json cannot be read: "):
        read_json(path)
    with pytest.raises(DatasetError, match=r"a\.json cannot be read: "):
        read_json(path, error=DatasetError)


def test_a_file_that_cannot_be_written_keeps_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(DatasetError, match=r"cannot write .*nowhere"):
        write_json(tmp_path / "nowhere" / "a.json", {}, error=DatasetError)
