"""The named functions, called as programs call them; and the example of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tests.fer_app.video.conftest import make_clip

client = pytest.importorskip("gradio_client")


@pytest.fixture(scope="module")
def talk(_astronaut_pixels, tmp_path_factory) -> Path:
    pictures = [np.ascontiguousarray(_astronaut_pixels[:320, 80:400])] * 20
    path = tmp_path_factory.mktemp("clip") / "talk.mp4"
    return make_clip(path, times=range(20), size=(320, 320), pictures=pictures, sounds=[{"codec": "aac"}])


def test_the_example_of_the_documentation_runs(served, repository, astronaut_path, talk, tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", (repository / "docs/ui.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "photo.jpg").write_bytes(astronaut_path.read_bytes())
    (tmp_path / "talk.mp4").write_bytes(talk.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert "http://127.0.0.1:7860/" in block
    exec(compile(block.replace("http://127.0.0.1:7860/", served), "docs/ui.md", "exec"), {})
    photo, video = capsys.readouterr().out.splitlines()
    assert photo.startswith("photo.jpg 0 happiness {'neutral': ")
    assert video.startswith("10 {")
    assert [Path(name).name for name in re.findall(r"'([^']*talk\.\w+)'", video)] == [
        f"talk.{kind}" for kind in ("mp4", "csv", "jsonl", "json")
    ]


def test_mistakes_are_sentences(served, tmp_path) -> None:
    caller = client.Client(served, verbose=False)
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    sent = client.handle_file(text)
    (record,) = caller.predict([sent], api_name="/predict")
    assert record == {"source": "notes.txt", "error": record["error"]}
    assert record["error"].startswith("notes.txt: not a picture")
    for arguments, said in (
        ({"files": [sent], "model": "other", "api_name": "/predict"}, "there is no model 'other' here"),
        ({"files": [sent] * 33, "api_name": "/predict"}, "send 32 at most"),
        ({"video": sent, "api_name": "/annotate"}, "notes.txt: is no video"),
        ({"video": sent, "more_files": ["../x"], "api_name": "/annotate"}, "files are some of"),
        ({"video": sent, "min_face_px": 1, "api_name": "/annotate"}, "smallest window is 12 px"),
    ):
        with pytest.raises(client.exceptions.AppError, match=re.escape(said)):
            caller.predict(**arguments)


def test_only_two_functions_are_named(served) -> None:
    named = client.Client(served, verbose=False).view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/predict", "/annotate"}
