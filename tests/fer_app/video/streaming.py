"""A server of streams on this machine: what a camera in the network sends, in real time, until it dies."""

from __future__ import annotations

import http.server
import io
import threading
import time
from collections.abc import Sequence
from fractions import Fraction
from typing import Self

import av
import cv2
import numpy as np
import numpy.typing as npt

Pictures = Sequence[npt.NDArray[np.uint8]]


class JpegStream:
    """Pictures one by one, as most network cameras send them over HTTP; each may have its own size."""

    kind = "multipart/x-mixed-replace; boundary=next"

    def __init__(self, pictures: Pictures) -> None:
        self.pieces = []
        for picture in pictures:
            coded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
            head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {coded.size}\r\n\r\n"
            self.pieces.append(head.encode() + coded.tobytes() + b"\r\n")


class TransportStream:
    """MPEG-TS with H.264, a piece a picture."""

    kind = "video/mp2t"

    def __init__(self, pictures: Pictures, fps: int) -> None:
        self.pieces, file = [], io.BytesIO()
        height, width = pictures[0].shape[:2]
        with av.open(file, "w", format="mpegts", options={"flush_packets": "1"}) as output:
            options = {"tune": "zerolatency", "preset": "ultrafast", "g": "10"}
            stream = output.add_stream("libx264", rate=fps, options=options, width=width, height=height)
            stream.pix_fmt = "yuv420p"
            for number, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, fps)
                sent = file.tell()
                output.mux(stream.encode(frame))
                self.pieces.append(file.getvalue()[sent:])


class StreamServer:
    """Sends the pieces of a stream, `fps` a second, again and again, to everybody who asks for anything."""

    def __init__(self, stream: JpegStream | TransportStream, fps: float, *, port: int = 0) -> None:
        self.alive, self.silent, self.asked = True, False, 0
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked += 1
                self.send_response(200)
                self.send_header("Content-Type", stream.kind)
                self.end_headers()
                begin, sent = time.monotonic(), 0
                while server.alive:
                    try:
                        self.wfile.write(stream.pieces[sent % len(stream.pieces)])
                    except OSError:
                        break
                    sent += 1
                    while server.silent and server.alive:
                        time.sleep(0.02)
                    time.sleep(max(0.0, begin + sent / fps - time.monotonic()))

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def address(self, path: str = "video", login: str = "") -> str:
        return f"http://{login}127.0.0.1:{self.port}/{path}"

    def die(self) -> None:
        if self.alive:
            self.alive = False
            self._server.shutdown()
            self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.die()
