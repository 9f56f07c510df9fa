"""Parquet rows, the timeline and the storyboard of whole videos: however a run ends."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fer_app.video.conftest import make_clip
from tests.fer_app.video_faces.made_faces import made_faces, showing

from fer_app.errors import InputError, ModelError
from fer_app.recognizer import Recognizer
from fer_app.video import VideoFrame
from fer_app.video_faces import OutputPaths, Settings, Wanted, annotate_video, name_outputs, read_summary
from fer_app.video_faces.finders import EveryFrameFinder, FoundFaces
from fer_app.video_faces.outputs import EVERYTHING, RowFiles, partial_rows
from fer_app.video_faces.storyboard_sheet import sheet_wh

HAS = {name: importlib.util.find_spec(name) is not None for name in ("pyarrow", "matplotlib")}
needs_both = pytest.mark.skipif(not all(HAS.values()), reason="needs the extras parquet and plots")


@pytest.fixture(scope="module")
def recognizer(tiny_model: Path) -> Recognizer:
    return Recognizer(tiny_model, device="cpu")


@pytest.fixture
def clip(tmp_path: Path, astronaut: np.ndarray) -> Path:
    """A red face, which the model takes for an angry one, for 0.8 s."""
    red = astronaut[:400, 50:450].copy()
    red[50:200, 110:240, 1:] //= 2
    return make_clip(tmp_path / "clip.mp4", times=range(20), size=(400, 400), pictures=[red] * 20)


def outputs(clip: Path, wanted: Wanted) -> OutputPaths:
    folder = clip.parent / "out"
    folder.mkdir(exist_ok=True)
    return OutputPaths(folder, "clip", wanted)


def csv_frames(paths: OutputPaths) -> list[str]:
    with paths.rows[0].open(newline="") as file:
        return [row["frame_index"] for row in csv.DictReader(file)]


def assert_all_there(paths: OutputPaths, frames: int) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(paths.rows[2])
    assert table["frame_index"].to_pylist() == list(map(int, csv_frames(paths))) == list(range(frames))
    assert [path for path in paths.finished if not path.is_file()] == []
    assert [path.name for path in paths.summary.parent.iterdir() if path not in paths.finished] == []
    for path in (paths.timeline, paths.storyboard):
        assert path is not None
        with Image.open(path) as picture:
            picture.load()


@needs_both
def test_a_whole_video(recognizer: Recognizer, clip: Path) -> None:
    paths = outputs(clip, EVERYTHING)
    summary = annotate_video(recognizer, str(clip), paths, Settings())
    assert_all_there(paths, 20)
    assert summary["settings"]["files"] == [
        "clip.mp4",
        "clip.csv",
        "clip.jsonl",
        "clip.parquet",
        "clip.timeline.png",
        "clip.storyboard.jpg",
        "clip.json",
    ]
    with Image.open(paths.timeline) as plot:
        assert plot.size == (1440, 396)
    with Image.open(paths.storyboard) as sheet:
        assert sheet.size == sheet_wh(1)


@needs_both
def test_a_stopped_run_and_a_damaged_video_give_what_was_read(recognizer: Recognizer, clip: Path) -> None:
    paths = outputs(clip, EVERYTHING)
    summary = annotate_video(recognizer, str(clip), paths, Settings(), stop=lambda: True)
    assert (summary["complete"], summary["frames"]) == (False, 1)
    assert_all_there(paths, 1)
    clip = make_clip(clip.with_suffix(".mkv"), times=range(0, 100, 5), size=(400, 400), options={"g": "1"})
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    summary = annotate_video(recognizer, str(clip), paths, Settings())
    assert not summary["complete"]
    assert_all_there(paths, summary["frames"])


class FailingFinder(EveryFrameFinder):
    def find(self, frames: Sequence[VideoFrame]) -> list[FoundFaces]:
        if frames[0].index >= 8:
            raise ModelError("the device is gone")
        return super().find(frames)


@needs_both
def test_an_error_leaves_what_was_done(recognizer: Recognizer, clip: Path) -> None:
    paths = outputs(clip, EVERYTHING)
    with pytest.raises(ModelError, match="the device is gone"):
        annotate_video(recognizer, str(clip), paths, Settings(), finder=FailingFinder(recognizer))
    assert_all_there(paths, 8)


def test_a_storyboard_of_the_base_install_shows_the_face(recognizer: Recognizer, clip: Path) -> None:
    details = []
    for blur in (False, True):
        paths = outputs(clip, Wanted(storyboard=True))
        annotate_video(recognizer, str(clip), paths, Settings(blur=blur))
        with Image.open(paths.storyboard) as sheet:
            assert sheet.size == sheet_wh(1)
            eyes = np.asarray(sheet.convert("L")).astype(int)[84 + 34 + 80 : 84 + 34 + 130, 18 + 70 : 18 + 155]
        details.append(np.abs(np.diff(eyes, axis=1)).mean())
    assert details[0] > 2
    assert details[1] < details[0] / 3


def test_nothing_is_drawn_into_what_the_storyboard_shows(recognizer: Recognizer, clip: Path) -> None:
    sheets = []
    for video in (False, True):
        paths = outputs(clip, Wanted(video=video, storyboard=True))
        annotate_video(recognizer, str(clip), paths, Settings())
        sheets.append(paths.storyboard.read_bytes())
    assert sheets[0] == sheets[1]


def test_a_picture_that_cannot_be_written_is_an_error_and_the_summary_says_so(
    recognizer: Recognizer, clip: Path
) -> None:
    paths = outputs(clip, Wanted(video=False, storyboard=True))
    paths.storyboard.mkdir()
    with pytest.raises(InputError, match="is a folder"):
        annotate_video(recognizer, str(clip), paths, Settings())
    summary = read_summary(paths.summary)
    assert summary is not None
    assert not summary["complete"]
    assert "is a folder" in summary["problem"]
    assert len(csv_frames(paths)) == 20


def test_a_file_that_cannot_have_its_name_leaves_the_others_whole(clip: Path) -> None:
    paths = outputs(clip, Wanted(video=False, jsonl=True))
    csv_path, jsonl = paths.rows
    (csv_path / "something").mkdir(parents=True)  # as good as a file that a table program has open on Windows
    rows = RowFiles(paths)
    with pytest.raises(InputError, match=rf"{csv_path.name}: cannot be written"), rows:
        rows.write(made_faces(0.0, [1], [showing("fear")]))
    assert len(jsonl.read_text().splitlines()) == 1
    assert len(partial_rows(csv_path).read_text().splitlines()) == 2
    assert all(file.closed for file in rows._files)


def test_names(tmp_path: Path) -> None:
    (paths,) = name_outputs(["a/talk.mov"], tmp_path, EVERYTHING)
    names = ["mp4", "csv", "jsonl", "parquet", "timeline.png", "storyboard.jpg", "json"]
    assert [path.name for path in paths.finished] == [f"talk.{name}" for name in names]
    assert [path.name for path in paths.unfinished] == [
        f"talk.partial.{name}" for name in ("mp4", "csv", "jsonl", "parquet")
    ]
    (paths,) = name_outputs(["a/talk.mov"], tmp_path, Wanted(video=False))
    assert [path.name for path in paths.finished] == ["talk.csv", "talk.json"]
    # The numbers do not depend on what is wanted: `talk.mov` would take the name of a video in the folder.
    for wanted in (EVERYTHING, Wanted(video=False)):
        (paths,) = name_outputs([str(tmp_path / "talk.mp4")], tmp_path, wanted)
        assert paths.summary.name == "talk_2.json"


def test_names_are_cut_to_what_file_systems_take(tmp_path: Path) -> None:
    sources = [
        str(tmp_path / f"{letter * count}{end}.mp4") for letter, count in (("a", 250), ("ü", 125)) for end in "xy"
    ]
    named = name_outputs(sources, tmp_path, EVERYTHING)
    for paths in named:
        for path in [*paths.finished, *paths.unfinished]:
            path.touch()
    stems = [paths.summary.stem for paths in named]
    assert stems == ["a" * 200, "a" * 200 + "_2", "ü" * 100, "ü" * 100 + "_2"]
