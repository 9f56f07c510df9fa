"""The WebSocket of the webcam: a picture in, its faces out; the newest picture alone, and everybody in turn.

The page sends the next picture when it has the answer to the last one. A client that sends more loses all but the
newest; each visitor has one picture waiting at most, and they are read in the order in which they came, so all get the
same share.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from fer_app.errors import FerError
from fer_app.session import physical_cores
from fer_app.ui.html import css_colour
from fer_app.ui.live import LiveFaces
from fer_app.ui.model_shelf import ModelShelf

# Who sends nothing for so long makes room for others.
_IDLE_S = 60.0
_TRY_AGAIN_LATER = 1013
_REFUSED = 1008
# The networks share out one picture over the cores, but less well than several pictures.
_CORES_A_READER = 2


class _Newest:
    """Holds what a visitor sent last: settings, and one picture."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] | None = None
        self.picture: tuple[bytes, float] | None = None
        self.dropped = 0
        self.ended = False
        self._changed = asyncio.Event()

    def put(self, message: dict[str, Any]) -> None:
        """Take a message of the WebSocket."""
        if message["type"] == "websocket.disconnect":
            self.ended = True
        elif message.get("bytes") is not None:
            self.dropped += self.picture is not None
            self.picture = message["bytes"], time.monotonic()
        else:
            told = json.loads(message["text"])
            self.settings = told if isinstance(told, dict) else {}
        self._changed.set()

    async def wait(self) -> None:
        """Wait until there is something.

        Raises:
            TimeoutError: there was nothing for too long.
        """
        while not (self.ended or self.picture is not None or self.settings is not None):
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), _IDLE_S)


class WebcamDesk:
    """Serves all webcams.

    Attributes:
        viewers: how many there are now.
    """

    def __init__(self, shelf: ModelShelf, max_viewers: int, is_allowed: Callable[[WebSocket], bool]) -> None:
        """Begin without visitors.

        Args:
            shelf: the classifiers.
            max_viewers: more are told to come back later.
            is_allowed: whether somebody may use the page.
        """
        self.viewers = 0
        self._shelf, self._max_viewers, self._is_allowed = shelf, max_viewers, is_allowed
        self._readers = ThreadPoolExecutor(max(1, physical_cores() // _CORES_A_READER), thread_name_prefix="webcam")

    async def serve(self, socket: WebSocket) -> None:
        """Serve one visitor until it leaves; nothing of it is kept then."""
        if not self._is_allowed(socket):
            await socket.close(_REFUSED)
            return
        await socket.accept()
        if self.viewers >= self._max_viewers:
            await _end(socket, "All places for webcams are taken; try again later.", _TRY_AGAIN_LATER)
            return
        self.viewers += 1
        newest = _Newest()
        receiving = asyncio.create_task(_receive(socket, newest))
        try:
            await self._answer(socket, newest)
        except TimeoutError:
            await _end(socket, "No picture came for a minute; start again.", _TRY_AGAIN_LATER)
        except (FerError, ValueError) as error:
            await _end(socket, str(error), _REFUSED)
        except (WebSocketDisconnect, RuntimeError):  # it left while an answer was on its way
            pass
        finally:
            self.viewers -= 1
            receiving.cancel()

    async def _answer(self, socket: WebSocket, newest: _Newest) -> None:
        live: LiveFaces | None = None
        loop = asyncio.get_running_loop()
        while True:
            await newest.wait()
            if newest.ended:
                return
            if newest.settings is not None:
                settings, newest.settings = newest.settings, None
                live, hello = await loop.run_in_executor(self._readers, self._begin, settings)
                await socket.send_json(hello)
            if newest.picture is not None:
                (jpeg, came_s), newest.picture = newest.picture, None
                if live is None:
                    raise ValueError("settings come before the first picture")
                answer = await loop.run_in_executor(self._readers, live.read, jpeg, came_s)
                waited_ms = 1000 * (time.monotonic() - came_s) - answer["read_ms"]
                await socket.send_json(answer | {"waited_ms": round(waited_ms, 1), "dropped": newest.dropped})

    def _begin(self, settings: dict[str, Any]) -> tuple[LiveFaces, dict[str, Any]]:
        """Make what reads the pictures, and what the page needs to draw them."""
        model, detect_every, smooth_s = (settings.get(key) for key in ("model", "detect_every", "smooth_s"))
        if not isinstance(model, str) or type(detect_every) not in (int, type(None)):
            raise ValueError("model is a name, detect_every a whole number or null")
        if not isinstance(smooth_s, int | float):
            raise ValueError("smooth_s is a number of seconds")
        recognizer = self._shelf.recognizer(model)
        labels = recognizer.contract.labels
        colours = [css_colour(label, i) for i, label in enumerate(labels)]
        live = LiveFaces(recognizer, detect_every=detect_every, smooth_s=smooth_s)
        return live, {"labels": list(labels), "colours": colours}


async def _receive(socket: WebSocket, newest: _Newest) -> None:
    """Take what comes at once, so that nothing waits in a queue."""
    while not newest.ended:
        try:
            newest.put(dict(await socket.receive()))
        except (ValueError, RecursionError):  # no JSON
            newest.put({"type": "websocket.receive", "text": "{}"})


async def _end(socket: WebSocket, sentence: str, code: int) -> None:
    try:
        await socket.send_json({"problem": sentence})
        await socket.close(code)
    except (WebSocketDisconnect, RuntimeError):
        return
