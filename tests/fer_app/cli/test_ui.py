"""The command's errors and its end; what it serves is tested in tests/fer_app/ui."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fer_app.video.conftest import make_clip
from typer.testing import CliRunner

from fer_app.cli import app
from fer_app.errors import InputError
from fer_app.ui import server
from fer_app.ui.settings import UiSettings
from fer_app.ui.stop_switches import StopSwitches

# Whoever runs the tests in the background may ignore Ctrl-C, and so would the program.
HEEDING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
FER = [sys.executable, "-c", f"{HEEDING}; from fer_app.cli import main; main()", "ui", "--device", "cpu"]


def test_options_become_settings(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    from fer_app.ui import server

    seen: list[UiSettings] = []

    def serve(settings: UiSettings, tell: Any) -> int:
        seen.append(settings)
        tell("http://127.0.0.1:1/")
        return 0

    monkeypatch.setattr(server, "serve", serve)
    done = CliRunner().invoke(app, ["ui"])
    assert (done.exit_code, done.stdout) == (0, "http://127.0.0.1:1/  (Ctrl-C ends it)\n")
    assert seen == [UiSettings()]
    assert (seen[0].host, seen[0].share, seen[0].is_private, seen[0].login) == ("127.0.0.1", False, True, None)
    (tmp_path / "password").write_text("sesame")
    words = f"--host 0.0.0.0 --port 81 -m a.onnx -m b.onnx --max-upload-mb 5 --max-pixels 6 --max-video-minutes 0.5 --max-viewers 2 --uncertain-below 0.7 --share --auth ali:{tmp_path / 'password'}"  # noqa: E501
    assert CliRunner().invoke(app, ["ui", *words.split()]).exit_code == 0
    settings = seen[1]
    assert (settings.models, settings.port, settings.share, settings.is_private) == (
        ("a.onnx", "b.onnx"),
        81,
        True,
        False,
    )
    assert (settings.max_upload_bytes, settings.max_pixels, settings.max_video_minutes, settings.max_viewers) == (
        5_000_000,
        6,
        0.5,
        2,
    )
    assert settings.uncertain_below == 0.7
    assert settings.login is not None
    assert settings.login.password == "sesame"


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        ("--auth ali", "--auth takes USER:FILE", 1),
        ("--auth ali:/no/such/file", "the password cannot be read", 1),
        ("--host 203.0.113.1", "cannot listen on 203.0.113.1", 1),
        ("--port 70000", "--port", 2),
        ("--device abacus", "--device", 2),
        ("--port 0 --model no-such.onnx", "no model 'no-such.onnx'", 1),
    ],
)
def test_mistakes_are_one_line(words: str, said: str, status: int) -> None:
    done = CliRunner().invoke(app, ["ui", *words.split()])
    assert done.exit_code == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["ui", "--port", str(port)])
    assert done.exit_code == 1
    assert f"port {port}: Address already in use; choose others" in done.stderr


def test_a_relay_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from fer_app.ui.server import _public_address

    def fail(*_: Any) -> str:
        raise RuntimeError("Could not get share link\nfrom the relay.")

    monkeypatch.setattr("gradio.networking.setup_tunnel", fail)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match=r"--share: .* Could not get share link from the relay"):
            _public_address(listening)


@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
def test_ctrl_c_ends_it_quietly(tiny_model) -> None:
    command = [*FER, "--port", "0", "--model", str(tiny_model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def test_videos_are_stopped_before_the_server_waits_for_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    switches = StopSwitches()
    video = switches.new()
    stopped = []

    class Server:
        started = True

        def __init__(self, config: object) -> None: ...

        def run(self, sockets: list[socket.socket]) -> None: ...

        def __setattr__(self, name: str, value: object) -> None:
            assert (name, value) == ("should_exit", True)
            stopped.append(video.pressed())

    monkeypatch.setattr(server, "StopSwitches", lambda: switches)
    monkeypatch.setattr(server, "make_app", lambda settings, switches: contextlib.nullcontext())
    monkeypatch.setattr(server.uvicorn, "Server", Server)
    assert server.serve(UiSettings(port=0), lambda address: None) == 0
    assert stopped == [True]


@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
def test_a_video_that_is_being_read_does_not_keep_it(tiny_model, tmp_path, monkeypatch) -> None:
    client = pytest.importorskip("gradio_client")
    pictures = [np.zeros((160, 160, 3), np.uint8)] * 20000
    long = make_clip(tmp_path / "long.mp4", times=range(20000), size=(160, 160), pictures=pictures)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    command = [*FER, "--port", "0", "--model", str(tiny_model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            caller = client.Client(address, verbose=False)
            caller.submit(video=client.handle_file(long), detect_every=1, blur=True, api_name="/annotate")
            deadline_s = time.monotonic() + 60
            while not list(Path(tmp_path, "temporary").glob("fer-ui-*/result-*/*")):  # it has begun
                assert time.monotonic() < deadline_s
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            asked_s = time.monotonic()
            out, err = process.communicate(timeout=120)
            took_s = time.monotonic() - asked_s
        finally:
            process.kill()
    assert (process.returncode, out, err) == (143, "", "")
    assert took_s < 40  # far less than the video takes
    assert not list(Path(tmp_path, "temporary").glob("fer-ui-*"))
