"""Headless Chromium, where there is one, and what it says of videos."""

from __future__ import annotations

import contextlib
import http.server
import json
import queue
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")

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
