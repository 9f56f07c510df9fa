"""What is written plays in a browser: headless Chromium is asked, where there is one."""

from __future__ import annotations

import http.server
import json
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from fer_app.video import VideoReader, VideoWriter

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")

# Plays the video from the start, and afterwards jumps close to its end; then tells what happened.
PAGE = b"""<!doctype html><video muted preload=auto></video><script>
const video = document.querySelector('video'), events = [];
const tell = () => fetch('/told', {method: 'POST', body: JSON.stringify({
  events, error: video.error && video.error.message, duration: video.duration, played, shown: shown(),
  ended: video.ended, width: video.videoWidth, height: video.videoHeight, sound: video.webkitAudioDecodedByteCount})});
const shown = () => video.getVideoPlaybackQuality().totalVideoFrames;
let played = 0;
for (const name of ['loadedmetadata', 'canplaythrough', 'playing', 'seeked', 'ended', 'error'])
  video.addEventListener(name, () => events.push(name));
video.addEventListener('error', tell);
video.addEventListener('ended', tell);
video.addEventListener('canplaythrough', () => video.play().then(() => setTimeout(() => {
  played = video.currentTime; video.currentTime = video.duration - 0.3;
}, 700)), {once: true});
setTimeout(tell, 15000);
video.src = '/video.mp4';
</script>"""


def play(video: Path, profile: Path) -> dict[str, Any]:
    """Let Chromium play a file from a server of this machine, which answers ranges as servers do; what it told."""
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    content = video.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, kind = (content, "video/mp4") if self.path == "/video.mp4" else (PAGE, "text/html")
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            self.send_response(206 if wanted else 200)
            if wanted:
                first, last = int(wanted[1]), int(wanted[2] or len(body) - 1)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
                body = body[first : last + 1]
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert CHROMIUM is not None
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required")
    browser = subprocess.Popen(
        [CHROMIUM, *options, f"--user-data-dir={profile}", f"http://127.0.0.1:{server.server_port}/"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return told.get(timeout=90)
    finally:
        browser.terminate()
        browser.wait()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("name", "what", "sound", "seconds", "size"),
    [
        ("aac.mp4", {}, "aac", 2, (64, 48)),
        ("mp3.avi", {"codec": "mpeg4"}, "libmp3lame", 2, (64, 48)),
        ("opus.webm", {"codec": "libvpx"}, "libopus", 2, (64, 48)),
        ("flac.mkv", {}, "flac", 2, (64, 48)),
        ("pcm.mov", {"rotation": 90}, "pcm_s16le", 2, (48, 64)),
        ("odd_and_silent.webm", {"codec": "libvpx-vp9", "size": (65, 49)}, None, 2, (66, 50)),
        ("late.ts", {"times": range(1000, 1050)}, "aac", 42, (64, 48)),
        (
            "variable.mp4",
            {
                "times": [3003 * time for time in (0, 3, 4, 9, 10, 11, 25, 26, 40, 41, 42, 43, 59)],
                "time_base": Fraction(1, 90000),
            },
            "aac",
            2,
            (64, 48),
        ),
    ],
)
def test_what_is_written_plays(
    clip: Callable[..., Path],
    tmp_path: Path,
    name: str,
    what: dict[str, Any],
    sound: str | None,
    seconds: float,
    size: tuple[int, int],
) -> None:
    sounds = [{"codec": sound, "seconds": 2}] if sound else []
    source = clip(name, sounds=sounds, **{"times": range(50)} | what)
    target = tmp_path / "out.mp4"
    with VideoReader(source) as reader, VideoWriter(target, reader.info, source_audio=source) as writer:
        for frame in reader:
            writer.write(frame)
        writer.close(end_s=reader.end_s)
    told = play(target, tmp_path / "profile")
    assert told["error"] is None
    assert told["events"][:3] == ["loadedmetadata", "canplaythrough", "playing"]
    assert told["ended"], told
    assert told["duration"] == pytest.approx(max(seconds, reader.end_s), abs=0.03)
    assert (told["width"], told["height"]) == size
    assert told["played"] > 0.3
    assert told["shown"] > 3
    assert (told["sound"] > 0) == (sound is not None)
