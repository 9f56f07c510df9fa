"""A small RTSP server on this machine: one client at a time, RTP inside the connection, as cameras send it over TCP."""

from __future__ import annotations

import base64
import socket
import struct
import threading
import time
from collections.abc import Sequence
from fractions import Fraction
from typing import BinaryIO, Self

import av
import numpy as np
import numpy.typing as npt

_CLOCK = 90_000
_PAYLOAD = 96
_MOST_BYTES = 1400


def _coded(pictures: Sequence[npt.NDArray[np.uint8]], fps: int) -> list[list[bytes]]:
    """Pictures as H.264, each the list of its NAL units."""
    height, width = pictures[0].shape[:2]
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base, context.framerate = Fraction(1, fps), Fraction(fps)
    context.options = {"tune": "zerolatency", "preset": "ultrafast", "g": "10"}
    units = []
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, fps)
        for packet in context.encode(frame):
            parts = bytes(packet).replace(b"\x00\x00\x00\x01", b"\x00\x00\x01").split(b"\x00\x00\x01")
            units.append([part for part in parts if part])
    return units


class RtspServer:
    """Sends pictures in a circle to whoever asks with the right login, at their rate; RFC 2326 and RFC 6184."""

    def __init__(self, pictures: Sequence[npt.NDArray[np.uint8]], fps: int, login: str) -> None:
        self._units, self._fps = _coded(pictures, fps), fps
        self._login = "Basic " + base64.b64encode(login.encode()).decode()
        self.refused = 0
        self._alive = True
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._alive = False
        self._socket.close()

    def _serve(self) -> None:
        while self._alive:
            try:
                connection, _ = self._socket.accept()
                with connection, connection.makefile("rb") as requests:
                    self._answer(connection, requests)
            except OSError:
                continue

    def _answer(self, connection: socket.socket, requests: BinaryIO) -> None:
        while True:
            line = requests.readline().decode()
            if not line:
                return
            method, address, _ = line.split()
            headers = {}
            while line := requests.readline().decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            status, extra, body = "200 OK", "", ""
            if method != "OPTIONS" and headers.get("authorization") != self._login:
                self.refused += 1
                status, extra = "401 Unauthorized", 'WWW-Authenticate: Basic realm="camera"\r\n'
            elif method == "OPTIONS":
                extra = "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                body = (
                    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
                    f"m=video 0 RTP/AVP {_PAYLOAD}\r\na=rtpmap:{_PAYLOAD} H264/{_CLOCK}\r\n"
                    f"a=fmtp:{_PAYLOAD} packetization-mode=1\r\na=control:picture\r\n"
                )
                extra = f"Content-Base: {address}/\r\nContent-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            session = "Session: 1\r\n" if method not in ("OPTIONS", "DESCRIBE") else ""
            answer = f"RTSP/1.0 {status}\r\nCSeq: {headers['cseq']}\r\n{session}{extra}\r\n{body}"
            connection.sendall(answer.encode())
            if method == "PLAY":
                self._play(connection)
                return

    def _play(self, connection: socket.socket) -> None:
        begin, sequence = time.monotonic(), 0
        number = 0
        while self._alive:
            units = self._units[number % len(self._units)]
            for i, unit in enumerate(units):
                for payload, last in _payloads(unit):
                    mark = last and i == len(units) - 1
                    head = struct.pack(
                        "!BBHII", 0x80, mark << 7 | _PAYLOAD, sequence % 65536, number * _CLOCK // self._fps, 7
                    )
                    packet = head + payload
                    connection.sendall(b"$\x00" + struct.pack("!H", len(packet)) + packet)
                    sequence += 1
            number += 1
            time.sleep(max(0.0, begin + number / self._fps - time.monotonic()))


def _payloads(unit: bytes) -> list[tuple[bytes, bool]]:
    """A NAL unit as it is, or in fragments (FU-A); and whether it is the last of them."""
    if len(unit) <= _MOST_BYTES:
        return [(unit, True)]
    parts = [unit[i : i + _MOST_BYTES] for i in range(1, len(unit), _MOST_BYTES)]
    kind, indicator = unit[0] & 0x1F, unit[0] & 0xE0 | 28
    return [
        (bytes([indicator, (i == 0) << 7 | (i == len(parts) - 1) << 6 | kind]) + part, i == len(parts) - 1)
        for i, part in enumerate(parts)
    ]
