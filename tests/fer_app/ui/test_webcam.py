"""The WebSocket of the webcam, asked by a client that may behave badly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.fer_app.ui.conftest import Guarded

exceptions = pytest.importorskip("websockets.exceptions")
client = pytest.importorskip("websockets.sync.client")

SETTINGS = {"model": "tiny", "detect_every": None, "smooth_s": 0.3}


@contextmanager
def visiting(address: str, settings: dict[str, Any] | None = None, **options: Any) -> Iterator[Any]:
    url = f"ws://{urlsplit(address).netloc}/fer/webcam"
    with client.connect(url, proxy=None, **options) as socket:
        if settings is not None:
            socket.send(json.dumps(settings))
            assert "problem" not in (hello := json.loads(socket.recv(timeout=30))), hello
        yield socket


def answer(socket: Any) -> dict[str, Any]:
    return dict(json.loads(socket.recv(timeout=30)))


@pytest.fixture(scope="module")
def picture(astronaut_path: Path) -> bytes:
    return astronaut_path.read_bytes()


def test_a_picture_is_answered_with_its_faces(served: str, picture: bytes) -> None:
    with visiting(served) as socket:
        socket.send(json.dumps(SETTINGS))
        hello = answer(socket)
        assert len(hello["labels"]) == len(hello["colours"]) > 1
        for _ in range(3):
            socket.send(picture)
            told = answer(socket)
            (face,) = told["faces"]
            assert face["track"] == 1
            assert face["label"] in hello["labels"]
            assert told["dropped"] == 0
        socket.send(json.dumps(SETTINGS | {"model": "mimic_hybrid_ferplus", "detect_every": 1, "smooth_s": 0}))
        assert "contempt" in answer(socket)["labels"]
        socket.send(picture)
        assert answer(socket)["faces"][0]["label"] == "happiness"


def test_of_many_pictures_the_newest_is_read(served: str, picture: bytes) -> None:
    with visiting(served, SETTINGS) as socket:
        for _ in range(40):
            socket.send(picture)
        answers = [answer(socket)]
        while answers[-1]["dropped"] + len(answers) < 40:
            answers.append(answer(socket))
        assert answers[-1]["dropped"] > 0
        with pytest.raises(TimeoutError):
            socket.recv(timeout=0.5)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"no picture", "not a picture"),
        (json.dumps(SETTINGS | {"model": "other"}), "there is no model 'other' here"),
        (json.dumps(SETTINGS | {"model": ["tiny"]}), "model is a name"),
        (json.dumps(SETTINGS | {"detect_every": True}), "detect_every a whole number"),
        (json.dumps(SETTINGS | {"detect_every": 0}), "must be 1 to"),
        (json.dumps(SETTINGS | {"smooth_s": 1e9}), "must be 0 to"),
        (json.dumps(SETTINGS | {"smooth_s": "a"}), "smooth_s is a number"),
        ("[1]", "model is a name"),
        ("{", "model is a name"),
    ],
)
def test_nonsense_is_answered_with_a_sentence_and_ends(served: str, message: bytes | str, said: str) -> None:
    with visiting(served, SETTINGS) as socket:
        socket.send(message)
        assert said in answer(socket)["problem"]
        with pytest.raises(exceptions.ConnectionClosed):
            socket.recv(timeout=10)


def test_a_picture_before_the_settings(served: str, picture: bytes) -> None:
    with visiting(served) as socket:
        socket.send(picture)
        assert "settings come before" in answer(socket)["problem"]


def test_too_large_a_message_ends_the_connection(served: str) -> None:
    with visiting(served, SETTINGS) as socket:
        with contextlib.suppress(exceptions.ConnectionClosed):  # it may come while this is being sent
            socket.send(b"\xff\xd8\xff" + bytes(3_000_000))
        with pytest.raises(exceptions.ConnectionClosed):
            socket.recv(timeout=10)


def test_other_sites_get_no_connection(served: str) -> None:
    with pytest.raises(exceptions.InvalidStatus), visiting(served, origin="http://evil.example"):
        pass


def test_everybody_gets_the_same_share(served: str, picture: bytes) -> None:
    counts = [0, 0, 0]
    until = time.monotonic() + 2

    def look(number: int) -> None:
        with visiting(served, SETTINGS) as socket:
            while time.monotonic() < until:
                socket.send(picture)
                assert len(answer(socket)["faces"]) == 1
                counts[number] += 1

    threads = [threading.Thread(target=look, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(counts) > 3
    assert max(counts) <= 1.5 * min(counts) + 2


def test_who_has_not_logged_in_gets_no_connection(guarded: Guarded) -> None:
    for cookie in ("", "access-token-x=y"):
        with (
            pytest.raises(exceptions.InvalidStatus),
            visiting(guarded.address, additional_headers={"Cookie": cookie}),
        ):
            pass


def test_places_are_limited_and_free_again_when_somebody_leaves(guarded: Guarded) -> None:
    known = {"additional_headers": {"Cookie": guarded.cookie}}
    with visiting(guarded.address, SETTINGS, **known), visiting(guarded.address, **known) as late:
        assert "places" in answer(late)["problem"]
    for _ in range(50):
        with visiting(guarded.address, **known) as socket:
            socket.send(json.dumps(SETTINGS))
            if "labels" in answer(socket):
                return
        time.sleep(0.1)
    pytest.fail("the place did not become free")


class Silent:
    """Stands for a WebSocket whose other side says nothing any more."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.closed = 0

    async def accept(self) -> None:
        pass

    async def receive(self) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError("nothing comes")

    async def send_json(self, value: Any) -> None:
        self.sent.append(value)

    async def close(self, code: int) -> None:
        self.closed = code


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """In a thread of its own: Playwright leaves a running loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, coroutine).result()


def test_who_sends_nothing_makes_room(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fer_app.ui import webcam
    from fer_app.ui.model_shelf import ModelShelf

    monkeypatch.setattr(webcam, "_IDLE_S", 0.1)
    desk = webcam.WebcamDesk(ModelShelf([str(tiny_model)], device="cpu", max_pixels=1), 1, lambda _: True)
    silent: Any = Silent()
    run(desk.serve(silent))
    assert "No picture came" in silent.sent[0]["problem"]
    assert silent.closed == 1013
    assert desk.viewers == 0
    refused: Any = Silent()
    run(webcam.WebcamDesk(desk._shelf, 1, lambda _: False).serve(refused))
    assert (refused.sent, refused.closed) == ([], 1008)
