from __future__ import annotations

import http.server
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from tests.fer_app.video.conftest import corners, draw, read_number
from tests.fer_app.video.streaming import JpegStream, StreamServer

from fer_app.errors import InputError, VideoOpenError
from fer_app.video import VideoReader, VideoWriter, is_live, live, open_live, shown_name

PERIOD_S = 0.02


class Camera:
    """A network camera: numbered JPEG pictures over HTTP, in real time, until it dies."""

    def __init__(self, port: int = 0, first: int = 0, frames: int | None = None) -> None:
        self.alive, self.sent = True, first
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
                self.end_headers()
                for _ in itertools.count() if frames is None else range(frames):
                    if not camera.alive:
                        break
                    picture = cv2.cvtColor(draw(camera.sent % 256, 64, 48), cv2.COLOR_RGB2BGR)
                    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
                    head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    try:
                        self.wfile.write(head.encode() + data + b"\r\n")
                    except OSError:
                        break
                    camera.sent += 1
                    time.sleep(PERIOD_S)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/video"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def die(self) -> None:
        self.alive = False
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def camera() -> Iterator[Camera]:
    camera = Camera()
    yield camera
    camera.die()


@pytest.mark.parametrize("source", ["0", "12", "/dev/video3", "rtsp://host/1", "http://host/a.mp4", "HTTPS://host/"])
def test_cameras_and_streams_are_told_from_files(source: str) -> None:
    assert is_live(source)


@pytest.mark.parametrize("source", ["clip.mp4", "0.mp4", "/dev/null", "-1", "file:///clip.mp4", "http", "concat:a|b"])
def test_files_are_no_streams(source: str) -> None:
    assert not is_live(source)
    with pytest.raises(InputError, match="open it as a file"):
        open_live(source)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("0", "camera 0"),
        ("/dev/video2", "camera 2"),
        ("a/clip.mp4", "a/clip.mp4"),
        ("rtsp://host:554/x", "rtsp://host:554/x"),
        ("rtsp://user:secret@host/x", "rtsp://host/x"),
        ("rtsp://user:sec@ret@host:554/x", "rtsp://host:554/x"),
        ("rtsp://user:sec/ret@host/x", "rtsp://host/x"),
        ("rtsp://user:sec?ret@host/x", "rtsp://host/x"),
        ("rtsp://user:secret@[::1]:8554/x", "rtsp://[::1]:8554/x"),
        ("http://host:80/@me/live", "http://host:80/@me/live"),
        ("http://host/a?user=me&pwd=secret#secret", "http://host/a?..."),
        ("rtsp://host/user=me&password=secret&channel=1/sub", "rtsp://host/user=...&password=...&channel=1/sub"),
        ("rtsp://host/user=me_password=secret_channel=1", "rtsp://host/user=..."),
    ],
)
def test_a_name_tells_no_secret(source: str, name: str) -> None:
    assert shown_name(source) == name


def test_pictures_arrive_upright_in_order_with_their_times(camera: Camera) -> None:
    with open_live(camera.url) as reader:
        frames = list(itertools.islice(reader, 5))
    assert [corners(frame.image) for frame in frames] == ["RGWB"] * 5
    numbers = [read_number(frame.image) for frame in frames]
    assert numbers == sorted(set(numbers))
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})
    times = [frame.time_s for frame in frames]
    assert times == sorted(set(times))
    assert 0 <= times[0] < times[-1] < 5
    assert frames[0].image.shape == (48, 64, 3)


def test_what_arrives_can_be_written(camera: Camera, tmp_path: Path) -> None:
    with open_live(camera.url) as reader, VideoWriter(tmp_path / "out.mp4", reader.info) as writer:
        frames = list(itertools.islice(reader, 8))
        for frame in frames:
            writer.write(frame)
    with VideoReader(tmp_path / "out.mp4") as copy:
        written = list(copy)
    assert [frame.time_s for frame in written] == [frame.time_s for frame in frames]
    assert [read_number(frame.image) for frame in written] == [read_number(frame.image) for frame in frames]


def test_a_slow_receiver_gets_the_newest_and_no_queue(camera: Camera) -> None:
    with open_live(camera.url, max_side_px=32) as reader:
        assert reader.latest(5) is not None
        for _ in range(3):
            time.sleep(20 * PERIOD_S)
            frame = reader.latest(5)
            assert frame is not None
            assert frame.image.shape == (24, 32, 3)
            behind = camera.sent - 1 - read_number(cv2.resize(frame.image, (64, 48), interpolation=cv2.INTER_NEAREST))
            assert behind <= 8
        assert frame.index >= 20  # so many arrived, of which four were taken


def test_it_comes_back_when_the_camera_does(camera: Camera) -> None:
    told: list[str | float] = []
    with open_live(camera.url, timeout_s=2, longest_wait_s=0.6, on_away=told.append, on_back=told.append) as reader:
        assert reader.away_s == 0
        assert reader.latest(5) is not None
        camera.die()
        while reader.connected:
            reader.latest(0.05)
        reader.latest(0.05)  # perhaps the very last picture
        assert reader.latest(0.05) is None  # waiting for it raises nothing
        deadline = time.monotonic() + 10
        while "cannot be reached" not in reader.last_problem:  # the first attempts fail
            assert time.monotonic() < deadline, reader.last_problem
            time.sleep(0.02)
        again = Camera(camera.port, first=100)
        try:
            frame = reader.latest(10)
            assert frame is not None
            assert read_number(frame.image) >= 100
            assert (reader.connected, reader.reconnections) == (True, 1)
            reason, away_s = told  # once each, however many attempts there were
            assert isinstance(reason, str)
            assert "127.0.0.1" not in reason
            assert reader.away_s == away_s
            assert 0.5 < float(away_s) < 10
        finally:
            again.die()


def test_a_source_that_falls_silent_is_asked_again() -> None:
    told: list[str | float] = []
    with StreamServer(JpegStream([draw(1)]), 50) as server:
        with open_live(server.address(), timeout_s=0.5, on_away=told.append, on_back=told.append) as reader:
            assert reader.latest(5) is not None
            server.silent = True
            deadline = time.monotonic() + 10
            while len(told) < 2:
                assert time.monotonic() < deadline, told
                server.silent = not told  # once it is noticed, it sends again
                time.sleep(0.02)
            assert reader.latest(5) is not None
        assert server.asked == 2


def test_waits_grow_up_to_the_longest_and_start_again_after_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = iter([1, 0, 0, 0, 0, 1, 0])  # how many pictures each connection gives
    waits: list[float] = []

    def stream(*_: object) -> Iterator[live.Pending]:
        count = next(attempts, None)
        if count is None:
            reader.stop_soon.set()
            return
        for _ in range(count):
            yield lambda: draw(1)

    class Stopping(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return reader.stop_soon.is_set()

    reader = SimpleNamespace(stop_soon=threading.Event())
    monkeypatch.setattr(live, "_stream", stream)
    monkeypatch.setattr(
        live, "threading", SimpleNamespace(Event=Stopping, Condition=threading.Condition, Thread=threading.Thread)
    )
    opened = open_live("rtsp://host/1", longest_wait_s=3)
    opened._thread.join(5)
    assert not opened._thread.is_alive()
    assert waits == [0.5, 1, 2, 3, 3, 0.5, 1, 2]


def test_nothing_there_is_an_error_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(VideoOpenError, match=r"http://127\.0\.0\.1:\d+/video: cannot be reached") as caught:
        open_live(f"http://user:secret@127.0.0.1:{port}/video")
    assert "secret" not in str(caught.value)


def test_waiting_for_the_first_picture_can_be_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/video"
        begin = time.monotonic()
        with pytest.raises(VideoOpenError, match="stopped before it sent a picture"):
            open_live(address, timeout_s=3, stop=lambda: time.monotonic() > begin + 0.3)
        assert time.monotonic() < begin + 2


def test_a_stream_without_pictures_is_an_error() -> None:
    camera = Camera(frames=0)
    try:
        with pytest.raises(VideoOpenError):
            open_live(camera.url, timeout_s=2)
    finally:
        camera.die()


def test_stop_wakes_a_waiting_receiver(camera: Camera) -> None:
    reader = open_live(camera.url)
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.extend(reader))
    thread.start()
    time.sleep(0.2)
    reader.stop()
    thread.join(2)
    assert not thread.is_alive()
    assert got
    assert reader.latest(0.1) is None


class _Device:
    """OpenCV's side of a camera."""

    def __init__(self, number: int) -> None:
        self.number, self.left, self.released = number, 3, False

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self.number == 2

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(PERIOD_S)
        self.left -= 1
        return (True, draw(self.left)[:, :, ::-1]) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.released = True


def test_a_camera_of_this_machine_gives_rgb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.cv2, "VideoCapture", _Device)
    with open_live("/dev/video2") as reader:
        frame = reader.latest(5)
        assert frame is not None
        assert corners(frame.image) == "RGWB"
        while reader.connected:
            time.sleep(0.01)
        assert reader.last_problem == "camera 2: sends no more pictures"
    with pytest.raises(VideoOpenError, match="camera 1: cannot be opened"):
        open_live("1")
