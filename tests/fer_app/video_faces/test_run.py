from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from tests.fer_app.video.conftest import make_clip

from fer_app.annotate import draw_faces
from fer_app.errors import ModelError, VideoOpenError
from fer_app.recognizer import Recognizer
from fer_app.results import Faces
from fer_app.video import VideoFrame, VideoReader
from fer_app.video_faces import OutputPaths, Settings, Wanted, annotate_video, pictures, read_summary, stages
from fer_app.video_faces.finders import EveryFrameFinder, FoundFaces
from fer_app.video_faces.outputs import name_outputs
from fer_app.video_faces.storyboard import Storyboard

# Where the face can be seen.
SEEN = [True] * 6 + [False] * 3 + [True] * 5
TIMES = [0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 13, 15, 16]  # of a variable rate
TIME_BASE = Fraction(1, 20)


@pytest.fixture(scope="module")
def recognizer(tiny_model: Path) -> Recognizer:
    return Recognizer(tiny_model, device="cpu")


@pytest.fixture
def clip(tmp_path: Path, astronaut: np.ndarray) -> Path:
    """A face that is covered for 0.25 s, with sound."""
    face = astronaut[:400, 50:450]
    covered = face.copy()
    covered[50:200, 110:240] = 120
    pictures = [face if seen else covered for seen in SEEN]
    return make_clip(
        tmp_path / "clip.mp4",
        times=TIMES,
        time_base=TIME_BASE,
        size=(400, 400),
        pictures=pictures,
        sounds=[{"codec": "aac", "seconds": 0.85}],
    )


def outputs(clip: Path, *, video: bool = True, jsonl: bool = True) -> OutputPaths:
    folder = clip.parent / "out"
    folder.mkdir(exist_ok=True)
    return OutputPaths(folder, "clip", Wanted(video=video, jsonl=jsonl))


def rows_of(paths: OutputPaths) -> list[dict[str, str]]:
    with paths.rows[0].open(newline="") as file:
        return list(csv.DictReader(file))


def shown(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(f.pts * f.time_base, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def sound(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(audio=0) if p.size]


def test_a_whole_video(recognizer: Recognizer, clip: Path) -> None:
    paths = outputs(clip)
    counted = []
    summary = annotate_video(
        recognizer, str(clip), paths, Settings(), on_frame=lambda info, faces: counted.append(len(faces))
    )
    assert counted == [int(seen) for seen in SEEN]
    assert sorted(path.name for path in paths.summary.parent.iterdir()) == [
        "clip.csv",
        "clip.json",
        "clip.jsonl",
        "clip.mp4",
    ]

    rows = rows_of(paths)
    assert [row["frame_index"] for row in rows] == [str(i) for i in range(14)]
    assert [float(row["time_s"]) for row in rows] == [time / 20 for time in TIMES]
    assert [row["face"] for row in rows] == ["0" if seen else "" for seen in SEEN]
    # The same person after the gap.
    assert [row["track_id"] for row in rows] == ["1" if seen else "" for seen in SEEN]
    assert paths.rows[1].suffix == ".jsonl"
    records = [json.loads(line) for line in paths.rows[1].read_text().splitlines()]
    assert [record["label"] or "" for record in records] == [row["label"] for row in rows]
    for record, row in zip(records, rows, strict=True):
        if record["face"] is not None:
            assert sum(record["smoothed_probs"].values()) == pytest.approx(1, abs=1e-4)
            assert float(row["smoothed_anger"]) == record["smoothed_probs"]["anger"]
        else:
            assert record["smoothed_probs"] is None
            assert row["smoothed_anger"] == ""

    (source, written) = shown(clip), shown(paths.video)
    assert [time for time, _ in written] == [time for time, _ in source]
    changed = [np.abs(a.astype(int) - b).max() > 100 for (_, a), (_, b) in zip(source, written, strict=True)]
    assert changed == SEEN
    assert sound(paths.video) == sound(clip)

    assert summary == read_summary(paths.summary)
    assert (summary["complete"], summary["problem"], summary["sound"]) == (True, None, "copied (aac)")
    assert (summary["frames"], summary["frames_with_faces"], summary["faces"]) == (14, 11, 11)
    # Each frame until the next: 0 to 0.35 s, and from 0.55 to the end.
    (track,) = summary["tracks"]
    assert (track["track_id"], track["first_s"], track["last_s"], track["faces"]) == (1, 0.0, 0.8, 11)
    assert track["face_seconds"] == pytest.approx(0.65, abs=0.02)
    assert sum(summary["expressions"].values()) == pytest.approx(1)
    assert summary["expressions"] == track["expressions"]


def test_rows_alone_without_smoothing(recognizer: Recognizer, clip: Path) -> None:
    paths = outputs(clip, video=False, jsonl=False)
    annotate_video(recognizer, str(clip), paths, Settings(smooth_s=0, every=3))
    assert sorted(path.name for path in paths.summary.parent.iterdir()) == ["clip.csv", "clip.json"]
    rows = rows_of(paths)
    assert [row["frame_index"] for row in rows] == ["0", "3", "6", "9", "12"]
    assert not [name for name in rows[0] if name.startswith("smoothed")]


def test_smoothing_is_of_the_track_and_leaves_the_raw_ones(recognizer: Recognizer, tmp_path: Path, astronaut) -> None:
    # The model says anger to red.
    red, blue = astronaut[:400, 50:450].copy(), astronaut[:400, 50:450].copy()
    # The face alone: all of the picture would be a cut.
    red[50:200, 110:240, 1:] //= 2
    blue[50:200, 110:240, :2] //= 2
    clip = make_clip(tmp_path / "c.mp4", times=range(12), size=(400, 400), pictures=[red] * 6 + [blue] * 6)
    rows = {}
    for smooth_s in (0.0, 0.2):
        paths = outputs(clip, video=False)
        annotate_video(recognizer, str(clip), paths, Settings(smooth_s=smooth_s))
        rows[smooth_s] = rows_of(paths)
    raw, smooth = rows[0.0], rows[0.2]
    assert [row["prob_anger"] for row in smooth] == [row["prob_anger"] for row in raw]
    assert [row["label"] for row in smooth] == [row["label"] for row in raw]
    before, after = (float(raw[i]["prob_anger"]) for i in (5, 6))
    assert before - after > 0.4
    assert float(smooth[5]["smoothed_anger"]) == pytest.approx(before, abs=0.02)
    # 0.04 s after the change, of a half-life of 0.2 s.
    kept = 0.5 ** (0.04 / 0.2)
    assert float(smooth[6]["smoothed_anger"]) == pytest.approx(kept * before + (1 - kept) * after, abs=0.02)


def test_blur_hides_the_face_and_changes_no_row(recognizer: Recognizer, clip: Path) -> None:
    rows, details = [], []
    for blur in (False, True):
        paths = outputs(clip)
        annotate_video(recognizer, str(clip), paths, Settings(blur=blur, detect_every=1))
        rows.append(paths.rows[0].read_text())
        row = rows_of(paths)[2]
        x0, y0, x1, y1 = (round(float(row[f"box_{name}"])) for name in ("x0", "y0", "x1", "y1"))
        # The eyes: inside the box, away from what is drawn.
        eyes = shown(paths.video)[2][1][y0 + 25 : (y0 + y1) // 2, x0 + 10 : x1 - 10]
        details.append(np.abs(np.diff(eyes.astype(int), axis=1)).mean())
    assert rows[0] == rows[1]
    assert details[1] < details[0] / 3


def test_a_stopped_run_leaves_a_finished_video_and_all_its_rows(recognizer: Recognizer, clip: Path) -> None:
    seen: list[int] = []
    paths = outputs(clip)
    summary = annotate_video(
        recognizer,
        str(clip),
        paths,
        Settings(),
        stop=lambda: len(seen) > 0,
        on_frame=lambda info, faces: seen.append(faces.frame_index or 0),
    )
    assert 1 <= len(seen) < 14 or summary["complete"]
    assert seen == [int(row["frame_index"]) for row in rows_of(paths)]
    assert len(shown(paths.video)) == len(seen)
    assert not [path for path in paths.unfinished if path.exists()]


def test_stop_before_the_first_batch_is_over(recognizer: Recognizer, clip: Path) -> None:
    paths = outputs(clip)
    summary = annotate_video(recognizer, str(clip), paths, Settings(), stop=lambda: True)
    assert (summary["complete"], summary["problem"]) == (False, "stopped before the end")
    assert summary["frames"] == len(rows_of(paths)) == len(shown(paths.video)) == 1


def test_a_damaged_video_gives_what_could_be_read(recognizer: Recognizer, clip: Path, astronaut: np.ndarray) -> None:
    pictures = [np.roll(astronaut[:400, 50:450], i, axis=1) for i in range(20)]
    # Key frames alone, which are all of one size.
    what = {"times": range(0, 100, 5), "size": (400, 400), "pictures": pictures, "options": {"g": "1"}}
    damaged = make_clip(clip.parent / "damaged.mkv", **what)
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    paths = outputs(clip)
    summary = annotate_video(recognizer, str(damaged), paths, Settings())
    assert not summary["complete"]
    assert "damaged.mkv: is damaged or cut off" in summary["problem"]
    assert 3 < summary["frames"] < 20
    assert len(rows_of(paths)) == len(shown(paths.video)) == summary["frames"]


class FailingFinder(EveryFrameFinder):
    def find(self, frames: Sequence[VideoFrame]) -> list[FoundFaces]:
        if frames[0].index >= 8:
            raise ModelError("the device is gone")
        return super().find(frames)


def test_an_error_leaves_what_was_done_and_says_so(recognizer: Recognizer, clip: Path) -> None:
    paths = outputs(clip)
    paths.summary.write_text('{"summary_version": 1, "complete": true}')
    with pytest.raises(ModelError, match="the device is gone"):
        annotate_video(recognizer, str(clip), paths, Settings(), finder=FailingFinder(recognizer))
    summary = read_summary(paths.summary)
    assert summary is not None
    assert (summary["complete"], summary["problem"], summary["frames"]) == (False, "the device is gone", 8)
    assert len(rows_of(paths)) == len(shown(paths.video)) == 8


def test_no_video_no_files(recognizer: Recognizer, clip: Path) -> None:
    paths = outputs(clip)
    with pytest.raises(VideoOpenError):
        annotate_video(recognizer, str(clip.parent / "nothing.mp4"), paths, Settings())
    assert list(paths.summary.parent.iterdir()) == []


def test_a_cut_to_another_person_in_the_same_place_is_another_track(
    recognizer: Recognizer, tmp_path: Path, astronaut: np.ndarray
) -> None:
    one = astronaut[:400, 50:450]
    other = one.copy()
    other[:, :100], other[:50], other[300:] = (200, 30, 30), (30, 200, 30), (220, 220, 250)
    other[:, 260:] = (10, 10, 90)
    clip = make_clip(tmp_path / "cut.mp4", times=range(8), size=(400, 400), pictures=[one] * 4 + [other] * 4)
    paths = outputs(clip, video=False)
    annotate_video(recognizer, str(clip), paths, Settings())
    ids = [row["track_id"] for row in rows_of(paths)]
    assert ids[:4] == ["1"] * 4
    assert "1" not in ids[4:]


def test_frames_are_searched_in_order_through_any_finder(recognizer: Recognizer, clip: Path) -> None:
    class Noting(EveryFrameFinder):
        indices: list[int] = []  # noqa: RUF012 - one test, one list

        def find(self, frames: Sequence[VideoFrame]) -> list[FoundFaces]:
            self.indices += [frame.index for frame in frames]
            return super().find(frames)

    finder = Noting(recognizer)
    annotate_video(recognizer, str(clip), outputs(clip, video=False), Settings(), finder=finder)
    with VideoReader(clip) as reader:
        assert finder.indices == [frame.index for frame in reader]


def test_names_are_distinct_and_never_a_source(tmp_path: Path) -> None:
    def names(sources: list[str], **what: Any) -> list[str]:
        return [paths.summary.stem for paths in name_outputs(sources, tmp_path, Wanted(video=False))]

    assert names(["a/clip.mp4", "b/clip.mov", "c/CLIP.avi", "d/other.mp4"]) == ["clip", "clip_2", "CLIP_3", "other"]
    assert names([str(tmp_path / "clip.mp4")]) == ["clip_2"]
    assert names([str(tmp_path / "clip.mkv")]) == ["clip"]


def test_pictures_follow_the_recognizers_threshold(
    tiny_model: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn is smoothed, and uncertain by the same threshold as the rows; so is the storyboard."""
    drawn: list[bool] = []
    chosen: list[float] = []

    def draw(image: np.ndarray, faces: Faces, steady: object) -> np.ndarray:
        drawn.extend(faces.uncertain.tolist())
        return draw_faces(image, faces, steady)

    def begin(labels: tuple[str, ...], uncertain_below: float, *, blur: bool) -> Storyboard:
        chosen.append(uncertain_below)
        return Storyboard(labels, uncertain_below, blur=blur)

    monkeypatch.setattr(stages, "draw_faces", draw)
    monkeypatch.setattr(pictures, "Storyboard", begin)
    for below, uncertain in ((0.0, False), (1.0, True)):
        drawn.clear()
        paths = OutputPaths(clip.parent, f"out-{below}", Wanted(video=True, storyboard=True))
        asked = Recognizer(tiny_model, device="cpu", uncertain_below=below)
        annotate_video(asked, str(clip), paths, Settings(smooth_s=0.3, uncertain_below=below))
        assert drawn == [uncertain] * sum(SEEN)
        assert {row["uncertain"] for row in rows_of(paths) if row["face"]} == {str(uncertain).lower()}
    assert chosen == [0.0, 1.0]
