"""What is written plays in a browser: headless Chromium is asked, where there is one."""

from __future__ import annotations

import contextlib
import http.server
import json
import queue
import re
import shutil
import subprocess
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.fer_app.video.conftest import make_clip

from fer_app.video import VideoReader, VideoWriter

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")

# Plays each video from the start, then jumps close to its end, and tells what happened.
PAGE = b"""<!doctype html><video muted preload=auto></video><script>
const video = document.querySelector('video');
const later = (name) => new Promise((resolve) => video.addEventListener(name, resolve, {once: true}));
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
let events = [];
for (const name of ['loadedmetadata', 'canplaythrough', 'playing', 'ended', 'error'])
  video.addEventListener(name, () => events.push(name));
async function play(name) {
  events = [];
  let played = 0;
  const ready = later('canplaythrough');
  video.src = name;
  await ready;
  await video.play();
  await wait(700);
  played = video.currentTime;
  const ended = later('ended');
  video.currentTime = video.duration - 0.3;
  await ended;
  return {played};
}
(async () => {
  for (const name of await (await fetch('/names')).json()) {
    const what = await Promise.race([play(name), later('error'), wait(15000)]);
    await fetch('/told', {method: 'POST', body: JSON.stringify({
      name, events, played: what && what.played, error: video.error && video.error.message, duration: video.duration,
      ended: video.ended, width: video.videoWidth, height: video.videoHeight,
      shown: video.getVideoPlaybackQuality().totalVideoFrames, sound: video.webkitAudioDecodedByteCount})});
  }
})();
</script>"""


class Clip(NamedTuple):
    """A source, and what the browser should say of the copy."""

    what: dict[str, Any]
    sound: str | None
    size: tuple[int, int] = (64, 48)


VARIABLE = [3003 * time for time in (0, 3, 4, 9, 10, 11, 25, 26, 40, 41, 42, 43, 59)]
CLIPS = {
    "aac.mp4": Clip({}, "aac"),
    "mp3.avi": Clip({"codec": "mpeg4"}, "libmp3lame"),
    "opus.webm": Clip({"codec": "libvpx"}, "libopus"),
    "flac.mkv": Clip({}, "flac"),
    "pcm_and_turned.mov": Clip({"rotation": 90}, "pcm_s16le", (48, 64)),
    "odd_and_silent.webm": Clip({"codec": "libvpx-vp9", "size": (65, 49)}, None, (66, 50)),
    "late.ts": Clip({"times": range(1000, 1050)}, "aac"),
    "variable.mp4": Clip({"times": VARIABLE, "time_base": Fraction(1, 90000)}, "aac"),
    "high.mp4": Clip({"size": (1280, 720), "options": {"preset": "ultrafast"}}, "aac", (1280, 720)),
}


def play(videos: dict[str, Path], profile: Path) -> dict[str, dict[str, Any]]:
    """Let Chromium play files from a server of this machine, which answers ranges as servers do; what it told."""
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    contents = {f"/{name}": (path.read_bytes(), "video/mp4") for name, path in videos.items()}
    contents["/"] = PAGE, "text/html"
    contents["/names"] = json.dumps(list(videos)).encode(), "application/json"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, kind = contents.get(self.path, (b"", "text/plain"))
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
            with contextlib.suppress(ConnectionError):  # the browser has enough
                self.wfile.write(body)

        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    assert CHROMIUM is not None
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required")
    browser = subprocess.Popen(
        [CHROMIUM, *options, f"--user-data-dir={profile}", f"http://127.0.0.1:{server.server_port}/"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        results = [told.get(timeout=90) for _ in videos]
        return {result["name"]: result for result in results}
    finally:
        browser.terminate()
        browser.wait()
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the browser said of the copy of each clip; `wanted_s` is how long it should be."""
    folder = tmp_path_factory.mktemp("browser")
    videos, wanted = {}, {}
    for name, (what, sound, _) in CLIPS.items():
        sounds = [{"codec": sound, "seconds": 2}] if sound else []
        source = make_clip(folder / name, sounds=sounds, **{"times": range(50)} | what)
        videos[name] = folder / f"out {name}.mp4"
        with VideoReader(source) as reader, VideoWriter(videos[name], reader.info, source_audio=source) as writer:
            for frame in reader:
                writer.write(frame)
            writer.close(end_s=reader.end_s)
        wanted[name] = max(reader.end_s, 2)
    results = play(videos, folder / "profile")
    return {name: result | {"wanted_s": wanted[name]} for name, result in results.items()}


@pytest.mark.parametrize("name", CLIPS)
def test_what_is_written_plays(told: dict[str, dict[str, Any]], name: str) -> None:
    clip, result = CLIPS[name], told[name]
    assert result["error"] is None
    assert result["events"][:3] == ["loadedmetadata", "canplaythrough", "playing"]
    assert result["ended"], result
    assert result["duration"] == pytest.approx(result["wanted_s"], abs=0.03)
    assert (result["width"], result["height"]) == clip.size
    assert result["played"] > 0.3
    assert result["shown"] > 3
    assert (result["sound"] > 0) == (clip.sound is not None)
