from __future__ import annotations

import csv
import datetime
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from tests.fer_app.video.conftest import draw
from tests.fer_app.video.streaming import JpegStream, StreamServer, TransportStream
from tests.fer_app.video_faces.made_faces import made_faces, showing

from fer_app.errors import ModelError
from fer_app.labels import LABELS
from fer_app.recognizer import Recognizer
from fer_app.video import VideoFrame, VideoInfo
from fer_app.video_faces import LiveSource, OutputPaths, Settings, Wanted, annotate_video, name_outputs, read_summary
from fer_app.video_faces.finders import EveryFrameFinder, FoundFaces
from fer_app.video_faces.live import recording_name
from fer_app.video_faces.summary import FaceTally
from fer_app.video_faces.timeline import ExpressionTimeline

FPS = 25


@pytest.fixture(scope="module")
def recognizer(tiny_model: Path) -> Recognizer:
    return Recognizer(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def pictures(_astronaut_pixels: np.ndarray) -> list[np.ndarray]:
    """A face that moves to and fro."""
    steps = [*range(10), *range(10, 0, -1)]
    return [np.ascontiguousarray(_astronaut_pixels[:300, 80 + 2 * i : 380 + 2 * i]) for i in steps]


@pytest.fixture
def camera(pictures: list[np.ndarray]) -> Iterator[StreamServer]:
    with StreamServer(JpegStream(pictures), FPS) as server:
        yield server


def outputs(folder: Path, **wanted: bool) -> OutputPaths:
    return OutputPaths(folder, "out", Wanted(jsonl=True, **wanted))


def rows_of(paths: OutputPaths) -> list[dict[str, str]]:
    with paths.rows[0].open(newline="") as file:
        return list(csv.DictReader(file))


def shown_times(path: Path | None) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


def after(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


def wait_for(state: Callable[[], bool]) -> bool:
    """Whether it comes true within ten seconds."""
    late = after(10)
    while not state() and not late():
        time.sleep(0.01)
    return state()


def test_a_recording_has_what_a_video_has(recognizer: Recognizer, pictures: list[np.ndarray], tmp_path: Path) -> None:
    paths = outputs(tmp_path, storyboard=True)
    before, begun = datetime.datetime.now().astimezone(), time.monotonic()
    with (
        StreamServer(TransportStream(pictures, FPS), FPS) as server,
        LiveSource(server.address("clip.ts", "user:secret@")) as live,
    ):
        seen: list[VideoInfo] = []
        late = after(1.5)

        def note(info: VideoInfo, faces: Any) -> None:
            seen.append(info)

        summary = annotate_video(
            recognizer,
            live,
            paths,
            Settings(),
            on_frame=note,
            stop=lambda: len(seen) >= 6 and late(),
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.csv",
        "out.json",
        "out.jsonl",
        "out.mp4",
        "out.storyboard.jpg",
    ]
    assert summary == read_summary(paths.summary)
    assert (summary["complete"], summary["problem"], summary["source_bytes"]) == (True, None, None)
    assert (summary["sound"], summary["video"]["codec"]) == ("none", None)
    assert summary["source"] == server.address("clip.ts")
    live_record = summary["live"]
    assert list(live_record) == [
        "begun_at",
        "frames_arrived",
        "frames_dropped",
        "reconnections",
        "away_s",
        "lag_p50_ms",
        "lag_p95_ms",
        "lag_max_ms",
    ]
    assert before <= datetime.datetime.fromisoformat(live_record["begun_at"]) <= datetime.datetime.now().astimezone()
    assert live_record["frames_arrived"] - live_record["frames_dropped"] == summary["frames"] >= 6
    assert 0 <= live_record["lag_p50_ms"] <= live_record["lag_p95_ms"] <= live_record["lag_max_ms"] < 5000
    assert (live_record["reconnections"], live_record["away_s"]) == (0, 0)

    rows = rows_of(paths)
    assert {row["source"] for row in rows} == {server.address("clip.ts")}
    assert {row["face"] for row in rows} == {"0"}
    indices = [int(row["frame_index"]) for row in rows]
    assert indices == sorted(set(indices))
    times = [float(row["time_s"]) for row in rows]
    assert times == sorted(set(times))
    assert shown_times(paths.video) == pytest.approx(times, abs=1e-6)
    assert len(json.loads(paths.rows[1].read_text().splitlines()[0])["probs"]) == len(LABELS)
    # Until it was stopped.
    assert times[-1] - times[0] <= summary["seconds"] + 1e-3 < time.monotonic() - begun
    assert summary["face_seconds"] == pytest.approx(summary["seconds"], abs=0.01)
    assert "secret" not in "".join(path.read_text() for path in [paths.summary, *paths.rows])


class SlowFinder(EveryFrameFinder):
    """As on a machine that manages three pictures a second."""

    def find(self, frames: Sequence[VideoFrame]) -> list[FoundFaces]:
        time.sleep(0.3 * len(frames))
        return super().find(frames)


def test_a_slow_machine_drops_pictures_and_falls_no_further_behind(
    recognizer: Recognizer, camera: StreamServer, tmp_path: Path
) -> None:
    paths = outputs(tmp_path)
    with LiveSource(camera.address(), duration_s=4) as live:
        summary = annotate_video(recognizer, live, paths, Settings(), finder=SlowFinder(recognizer))
    assert summary["complete"]
    assert 2 <= summary["frames"] <= 14
    assert summary["live"]["frames_dropped"] > 2 * summary["frames"]
    # Two pictures at a time. All that would fit into the threads and queues between them takes 2 s and more, and
    # a lag that grew would reach 4 s.
    assert summary["live"]["lag_p50_ms"] < 1000
    assert np.diff([float(row["time_s"]) for row in rows_of(paths)]).max() < 2
    assert shown_times(paths.video)[-1] < summary["seconds"] <= 4


def test_the_duration_ends_it_while_the_source_is_away(
    recognizer: Recognizer, camera: StreamServer, tmp_path: Path
) -> None:
    away: list[str] = []
    paths = outputs(tmp_path)
    with LiveSource(camera.address(), duration_s=4, on_away=away.append) as live:
        threading.Timer(0.6, camera.die).start()
        begin = time.monotonic()
        summary = annotate_video(recognizer, live, paths, Settings())
        assert 3 < time.monotonic() - begin < 30
    assert len(away) == 1
    assert camera.address() not in away[0]
    assert (summary["complete"], summary["seconds"]) == (True, pytest.approx(4, abs=0.1))
    assert 2 < summary["live"]["away_s"] < 4
    # Nobody knows what was shown in between: the last face counts for two seconds.
    last_s = float(rows_of(paths)[-1]["time_s"])
    assert summary["face_seconds"] == pytest.approx(last_s + 2, abs=0.1)


def test_pictures_of_another_size_are_fitted_into_the_first(
    recognizer: Recognizer, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    sizes = [*pictures[:8], *[np.ascontiguousarray(picture[:, 60:240]) for picture in pictures[:8]]]
    paths = outputs(tmp_path)
    with StreamServer(JpegStream(sizes), FPS) as server, LiveSource(server.address(), duration_s=1.5) as live:
        summary = annotate_video(recognizer, live, paths, Settings(detect_every=1))
    assert (summary["video"]["width"], summary["video"]["height"]) == (300, 300)
    assert summary["complete"]
    with av.open(str(paths.video)) as container:
        edges = [frame.to_ndarray(format="rgb24")[:, :50].mean() for frame in container.decode(video=0)]
    assert min(edges) < 5 < 50 < max(edges)
    assert summary["faces"] == summary["frames"]


def test_at_most_so_many_a_second(recognizer: Recognizer, camera: StreamServer, tmp_path: Path) -> None:
    paths = outputs(tmp_path, video=False)
    with LiveSource(camera.address(), fps=4, duration_s=2) as live:
        annotate_video(recognizer, live, paths, Settings(fps=4))
    slots = [int(float(row["time_s"]) * 4) for row in rows_of(paths)]
    assert slots == sorted(set(slots))
    assert 2 <= len(slots) <= 8


class FailingFinder(EveryFrameFinder):
    def find(self, frames: Sequence[VideoFrame]) -> list[FoundFaces]:
        if self.searched >= 3:
            raise ModelError("the device is gone")
        return super().find(frames)


def test_an_error_ends_a_recording_with_what_there_is(
    recognizer: Recognizer, camera: StreamServer, tmp_path: Path
) -> None:
    paths = outputs(tmp_path)
    with LiveSource(camera.address()) as live, pytest.raises(ModelError):
        annotate_video(recognizer, live, paths, Settings(), finder=FailingFinder(recognizer))
    summary = read_summary(paths.summary)
    assert summary is not None
    assert (summary["complete"], summary["problem"], summary["frames"]) == (False, "the device is gone", 3)
    assert len(rows_of(paths)) == len(shown_times(paths.video)) == 3


def test_stopped_before_its_duration_is_not_complete(
    recognizer: Recognizer, camera: StreamServer, tmp_path: Path
) -> None:
    with LiveSource(camera.address(), duration_s=30) as live:
        summary = annotate_video(recognizer, live, outputs(tmp_path), Settings(), stop=after(0.5))
    assert (summary["complete"], summary["problem"]) == (False, "stopped before the end")


@pytest.mark.parametrize(("duration_s", "given"), [(0.4, True), (30, False)])
def test_whether_it_ended_by_itself(camera: StreamServer, duration_s: float, given: bool) -> None:
    with LiveSource(camera.address(), duration_s=duration_s) as live:
        stop = after(0.2 if duration_s > 1 else 30)
        # The stop comes while the next picture is waited for, where nobody else asks whether to stop.
        for frame in live.frames(stop):
            assert not live.all_given
            live.written(frame)
        assert live.all_given == given


def test_no_picture_is_asked_for_while_two_are_worked_on() -> None:
    with StreamServer(JpegStream([draw(i) for i in range(200)]), 100) as server, LiveSource(server.address()) as live:
        given: list[VideoFrame] = []
        thread = threading.Thread(target=lambda: given.extend(live.frames(lambda: False)))
        thread.start()
        assert wait_for(lambda: len(given) == 2)
        time.sleep(0.4)
        assert len(given) == 2
        live.written(given[0])
        assert wait_for(lambda: len(given) == 3)
        assert given[2].time_s > 0.3  # the newest, and not the third
        live.end()
        thread.join(2)
        assert not thread.is_alive()


@pytest.mark.parametrize("add", [FaceTally.add, ExpressionTimeline.add])
def test_a_face_counts_no_longer_than_is_known(add: Callable[..., None]) -> None:
    kind = FaceTally if add is FaceTally.add else ExpressionTimeline
    taking = kind(LABELS, longest_s=2.0)
    for time_s in (0.0, 0.5, 60.0):
        add(taking, made_faces(time_s, [1], [showing("anger")]))
    result: Any = taking.result(60.5)
    seconds = result["face_seconds"] if kind is FaceTally else result.persons[0].seconds
    assert seconds == pytest.approx(0.5 + 2 + 0.5)


def test_names_of_recordings(tmp_path: Path) -> None:
    now = datetime.datetime(2026, 11, 27, 18, 3, 12)
    for source, name in {
        "0": "camera-0",
        "/dev/video2": "camera-2",
        "rtsp://user:secret@host/x": "host-x",
        "rtsp://user:secret@10.0.0.7:554/h264/ch1?channel=1&pwd=secret": "10.0.0.7-554-h264-ch1",
        "rtsp://[::1]:8554/../..": "1-8554-..-",
        "rtsp://": "stream",
        "http://" + 300 * "a": 100 * "a",
    }.items():
        assert recording_name(source, now) == f"{name.rstrip('-.')} 2026-11-27T18-03-12"
    names = [paths.summary.stem for paths in name_outputs(["0", "clip.mp4", "0"], tmp_path, Wanted())]
    assert names[0].startswith("camera-0 20")
    assert names[1:] == ["clip", f"{names[0]}_2"]
    assert list(itertools.islice(tmp_path.iterdir(), 1)) == []
