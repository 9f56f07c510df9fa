"""Videos as the page annotates them, without a browser."""

from __future__ import annotations

import csv
import json
import os
import re
import time

import numpy as np
import pytest
from tests.fer_app.video.conftest import make_clip

from fer_app import Recognizer
from fer_app.errors import InputError, VideoOpenError
from fer_app.ui.model_shelf import ModelShelf
from fer_app.ui.settings import UiSettings
from fer_app.ui.stop_switches import StopSwitch, StopSwitches
from fer_app.ui.upload_folder import UploadFolder
from fer_app.ui.video import Progress, VideoJob, show_video
from fer_app.ui.video_tab import make_job, more_files
from fer_app.ui.video_view import show_progress
from fer_app.video import VideoReader
from fer_app.video_faces import Settings, Wanted
from fer_app.video_faces.sources import FileSource


@pytest.fixture(scope="module")
def recognizer(tiny_model):
    return Recognizer(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def clip(_astronaut_pixels, tmp_path_factory):
    pictures = [np.ascontiguousarray(np.roll(_astronaut_pixels, 2 * i, axis=1)[:320, 80:400]) for i in range(60)]
    path = tmp_path_factory.mktemp("clip") / "a talk.mp4"
    sounds = [{"codec": "aac", "seconds": 2.4}]
    return make_clip(path, times=range(60), size=(320, 320), pictures=pictures, sounds=sounds)


@pytest.fixture
def job(recognizer, clip, tmp_path):
    def make(source=clip, *, max_minutes=1.0, switch=None, **wanted) -> VideoJob:
        return VideoJob(
            recognizer,
            source,
            tmp_path,
            Wanted(**wanted),
            Settings(),
            max_minutes=max_minutes,
            switch=switch or StopSwitch(),
        )

    return make


def test_a_video_gives_its_files_and_how_they_are_shown(job, clip, tmp_path) -> None:
    html = list(show_video(str(clip), lambda: job(jsonl=True, storyboard=True)))
    assert all("<progress" in progress for progress in html[:-1])
    assert {path.name for path in tmp_path.iterdir()} == {
        f"a talk{end}" for end in (".mp4", ".csv", ".jsonl", ".json", ".storyboard.jpg")
    }
    shown = html[-1]
    assert "fer-problem" not in shown
    assert "\n" not in shown
    assert f'src="gradio_api/file={tmp_path}/a%20talk.mp4"' in shown
    assert 'data-fer-end="2.400"' in shown
    assert shown.count("<path") == 8
    assert "60 frames, 60 faces" in shown
    summary = json.loads((tmp_path / "a talk.json").read_text())
    assert (summary["source"], summary["complete"], summary["sound"]) == ("a talk.mp4", True, "copied (aac)")
    with (tmp_path / "a talk.csv").open() as file:
        assert {row["source"] for row in csv.DictReader(file)} == {"a talk.mp4"}


def test_the_curve_says_what_the_rows_say(job) -> None:
    made = job()
    list(made.updates())
    (person,) = made.result.timeline.persons
    assert person.seconds == pytest.approx(2.4, abs=0.05)
    shares = made.result.summary["tracks"][0]["expressions"]
    assert np.nanmean(person.probs, axis=0).argmax() == max(range(8), key=lambda k: list(shares.values())[k])


def wait_at_frame_5(made: VideoJob, monkeypatch) -> None:
    """Its fifth frame is written, and then nothing before its switch is pressed, however fast the machine is."""
    add = made.progress.add

    def add_and_wait(*frame) -> None:
        add(*frame)
        if made.progress.frames == 5:
            pressed = time.monotonic() + 60
            while not made._switch.pressed() and time.monotonic() < pressed:
                time.sleep(0.01)

    monkeypatch.setattr(made.progress, "add", add_and_wait)


def test_the_switch_really_stops_it(job, tmp_path, monkeypatch) -> None:
    switch = StopSwitch()
    made = job(switch=switch)
    wait_at_frame_5(made, monkeypatch)
    for progress in made.updates():
        if progress.frames:
            switch.press()
    assert made.progress.frames < 60
    assert not made.result.summary["complete"]
    with VideoReader(tmp_path / "a talk.mp4") as reader:
        assert 0 < len(list(reader)) < 60
    assert not list(tmp_path.glob("*.partial.*"))


def test_who_leaves_stops_it(job, monkeypatch) -> None:
    made = job()
    wait_at_frame_5(made, monkeypatch)
    updates = made.updates()
    next(updates)
    updates.close()
    assert made.progress.frames < 60
    assert not made._thread.is_alive()


def test_lengths_are_limited_also_hidden_ones(job, clip, tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match=r"0\.0 minutes long; the limit is 0\.01 minutes"):
        job(max_minutes=0.01)
    made = job()
    made._most_s = 0.5
    list(made.updates())
    assert 12 < made.progress.frames < 50
    assert not made.result.summary["complete"]


def test_what_is_no_video_is_a_sentence(job, astronaut_path, tmp_path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    for source in (text, astronaut_path):
        with pytest.raises(VideoOpenError):
            job(source)
        (html,) = show_video(str(source), lambda source=source: job(source))
        assert html.startswith('<p class="fer-problem" role="alert">')
        assert str(source.parent) not in html
    assert not list(tmp_path.glob("*.csv"))


def test_a_damaged_video_shows_what_could_be_read(job, clip, tmp_path) -> None:
    cut = make_clip(tmp_path / "cut.mkv", times=range(60), size=(64, 48))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    html = list(show_video(str(cut), lambda: job(cut)))[-1]
    assert 'role="alert">Not complete: ' in html
    assert str(tmp_path) not in re.sub(r'(src|href)="[^"]*"', "", html)
    assert "No face was found in this video." in html


def test_progress_says_how_fast_and_how_long(clip) -> None:
    assert "0 frames" in show_progress(Progress())
    with VideoReader(clip) as reader:
        info = reader.info
    progress = Progress(begun_s=time.monotonic() - 2, frames=20, faces=7, frame_index=19, info=info)
    html = show_progress(progress)
    assert re.search(r'value="0\.33', html)
    assert re.search(r"20 of 60 frames, (10\.0|9\.9) a second, 0:04 left, 7 faces", html)


def test_a_video_that_is_deleted_meanwhile_ends_with_a_sentence(job, clip, tmp_path) -> None:
    source = tmp_path / "gone.mp4"
    source.write_bytes(clip.read_bytes())

    def begun() -> VideoJob:
        made = job(source)
        source.unlink()
        return made

    assert "Gone.mp4: no such file" in list(show_video(str(source), begun))[-1]


def test_the_size_of_a_video_is_known_after_it_is_gone(clip, tmp_path) -> None:
    path = tmp_path / "gone.mp4"
    path.write_bytes(clip.read_bytes())
    with FileSource(str(path), every=1, fps=None, duration_s=None) as source:
        path.unlink()
        assert source.record() == {"source": str(path), "source_bytes": clip.stat().st_size}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whatever_fails_is_a_sentence(job, clip, monkeypatch) -> None:
    def broken(*_, **__):
        raise OSError(5, "Input/output error", str(clip))

    monkeypatch.setattr("fer_app.ui.video.annotate_video", broken)
    shown = list(show_video(str(clip), job))[-1]
    assert "A talk.mp4: failed, OSError: [Errno 5] Input/output error: " in shown
    assert str(clip.parent) not in shown


def test_an_upload_is_kept_while_it_is_worked_on(tiny_model, clip) -> None:
    shelf = ModelShelf([str(tiny_model)], device="cpu", max_pixels=1_000_000)
    with UploadFolder(kept_s=60) as uploads:
        sent = uploads.root / "sent.mp4"
        sent.write_bytes(clip.read_bytes())
        os.utime(sent, (0, 0))
        made = make_job(shelf, UiSettings(), uploads, StopSwitch(), str(sent), "tiny")
        updates = made.updates()
        next(updates)
        uploads.sweep()
        assert sent.exists()
        list(updates)
        assert made.result is not None


def test_settings_of_the_page(tiny_model, clip) -> None:
    shelf = ModelShelf([str(tiny_model)], device="cpu", max_pixels=1_000_000)
    with UploadFolder() as uploads:

        def make(**options) -> VideoJob:
            return make_job(shelf, UiSettings(), uploads, StopSwitch(), str(clip), "tiny", **options)

        made = make(blur=True, every=3, detect_every=5, smooth_s=0, min_face_px=60, max_faces=2, files=["jsonl"])
        assert made._settings == Settings(
            every=3,
            detect_every=5,
            smooth_s=0,
            blur=True,
            min_face_px=60,
            max_faces=2,
            model_sha256=shelf.sha256("tiny"),
        )
        assert [path.suffix for path in made._paths.rows] == [".csv", ".jsonl"]
        assert make()._settings.detect_every is None
        assert make(every=None, max_faces=None)._settings == make()._settings  # emptied fields
        for wrong in ({"every": 0}, {"max_faces": -1}, {"smooth_s": float("nan")}, {"files": ["../x"]}):
            with pytest.raises(InputError):
                make(**wrong)
        with pytest.raises(InputError, match="choose a video first"):
            make_job(shelf, UiSettings(), uploads, StopSwitch(), None, "tiny")
    assert {name for _, name in more_files()} <= {"jsonl", "parquet", "timeline", "storyboard"}


def test_a_visitor_s_switch_is_one_at_a_time_and_all_are_pressed_at_the_end() -> None:
    switches = StopSwitches()
    first, other, program, another = switches.new("a"), switches.new("b"), switches.new(), switches.new()
    second = switches.new("a")
    assert [one.pressed() for one in (first, second, other, program, another)] == [True, False, False, False, False]
    switches.press("b")
    switches.press("nobody")
    assert [one.pressed() for one in (second, other, program)] == [False, True, False]
    switches.press_all()
    assert all(one.pressed() for one in (second, program, another, switches.new(), switches.new("c")))
