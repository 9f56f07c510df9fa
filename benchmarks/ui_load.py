"""How the page's webcam holds up: many clients at once, or one real browser with a fake camera.

    python benchmarks/ui_load.py --clients 1 4 16 --seconds 120
    python benchmarks/ui_load.py --browser --seconds 30

Starts `fer ui` on a free port. Clients send 640 x 480 px pictures of a moving face as the page does, the next one when
the answer is there, at most 30 a second.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

PORTRAIT = Path(__file__).resolve().parents[1] / "examples" / "astronaut.jpg"
FRAMES, CAMERA_FPS = 60, 30
WIDTH, HEIGHT = 640, 480


@dataclass
class Client:
    """What one client saw: seconds from a picture to its answer, and what went wrong."""

    latencies_s: list[float] = field(default_factory=list)
    faces: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Load:
    """What so many clients saw together.

    Attributes:
        fps: pictures a second of each client.
        latencies_s: of all pictures of all clients.
        memory_mb: of the program, as time went on.
        faces: share of pictures in which a face was read.
        errors: what went wrong.
    """

    fps: list[float]
    latencies_s: list[float]
    memory_mb: list[float]
    faces: float
    errors: list[str]

    @property
    def row(self) -> str:
        """A line of the table."""
        quarter = max(1, len(self.memory_mb) // 4)
        early, late = (statistics.median(part) for part in (self.memory_mb[:quarter], self.memory_mb[-quarter:]))
        median_ms, p95_ms = (1000 * quantile(self.latencies_s, share) for share in (0.5, 0.95))
        return (
            f"| {len(self.fps)} | {min(self.fps):.1f} to {max(self.fps):.1f} | {sum(self.fps):.1f} | {median_ms:.0f} | "
            f"{p95_ms:.0f} | {early:.0f}, {late:.0f} | {100 * self.faces:.1f} % | {len(self.errors)} |"
        )


HEADING = (
    "| clients | pictures a second of each | of all | latency, median, ms | 95th percentile, ms | "
    "memory, MB, first and last quarter | with a face | errors |\n|" + "---|" * 8
)


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


def film() -> list[bytes]:
    """Give the pictures of the camera: the portrait, moving to and fro before a wall."""
    with Image.open(PORTRAIT) as picture:
        person = np.asarray(picture.convert("RGB").resize((460, 460)))
    pictures = []
    for number in range(FRAMES):
        scene = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        left = 90 + round(60 * math.sin(2 * math.pi * number / FRAMES))
        scene[10:470, left : left + 460] = person
        buffer = io.BytesIO()
        Image.fromarray(scene).save(buffer, "JPEG", quality=80)
        pictures.append(buffer.getvalue())
    return pictures


@contextmanager
def serving(max_viewers: int) -> Iterator[tuple[str, int]]:
    """Run the page; gives its address and the number of its process."""
    code = "from fer_app.cli import main; main()"
    command = [sys.executable, "-c", code, "ui", "--port", "0", "--max-viewers", str(max_viewers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[0], process.pid
        finally:
            process.terminate()


def memory_mb(pid: int) -> float:
    """Resident memory of a process; Linux alone tells it."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def visit(address: str, model: str, pictures: Sequence[bytes], until: float, client: Client) -> None:
    """Send pictures until the time is over, as the page does."""
    from websockets.sync.client import connect

    try:
        with connect(f"ws://{urlsplit(address).netloc}/fer/webcam", proxy=None) as socket:
            socket.send(json.dumps({"model": model, "detect_every": None, "smooth_s": 0.3}))
            socket.recv(timeout=60)
            begun = time.monotonic()
            while (now := time.monotonic()) < until:
                socket.send(pictures[int((now - begun) * CAMERA_FPS) % len(pictures)])
                answer = json.loads(socket.recv(timeout=60))
                if "problem" in answer:
                    raise RuntimeError(answer["problem"])
                client.latencies_s.append(time.monotonic() - now)
                client.faces += len(answer["faces"]) > 0
                time.sleep(max(0.0, now + 1 / CAMERA_FPS - time.monotonic()))
    except Exception as error:  # whatever it is, it is counted
        client.errors.append(f"{type(error).__name__}: {error}")


def load(address: str, pid: int, model: str, count: int, seconds: float) -> Load:
    """Let so many clients look at the same time."""
    pictures = film()
    clients = [Client() for _ in range(count)]
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=visit, args=(address, model, pictures, until, client), daemon=True)
        for client in clients
    ]
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        memory.append(memory_mb(pid))
        time.sleep(0.5)
    latencies = [latency for client in clients for latency in client.latencies_s]
    return Load(
        fps=[len(client.latencies_s) / seconds for client in clients],
        latencies_s=latencies,
        memory_mb=memory,
        faces=sum(client.faces for client in clients) / max(1, len(latencies)),
        errors=[error for client in clients for error in client.errors],
    )


def in_browser(address: str, seconds: float, chromium: str) -> None:
    """Open the page in Chromium whose camera films the same pictures, and print what the page says."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        clip = Path(folder, "camera.mjpeg")
        clip.write_bytes(b"".join(film()))
        fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        options = ["--no-sandbox", *fake, f"--use-file-for-fake-video-capture={clip}"]
        browser = driver.chromium.launch(executable_path=chromium, args=options)
        page = browser.new_page()
        page.goto(address)
        page.get_by_role("tab", name="Webcam").click()
        page.get_by_role("button", name="Start").click()
        page.wait_for_timeout(1000 * seconds)
        told = page.evaluate("({...document.getElementById('fer-status').dataset})")
        print(f"browser: {browser.version}; {page.locator('#fer-status').inner_text()}")
        print(
            f"{int(told['pictures']) / seconds:.1f} pictures a second over {seconds:g} s, "
            "the start of the camera included"
        )
        print(f"95th percentile of the last 200 latencies: {told['p95']} ms")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16], metavar="N")
    parser.add_argument("--seconds", type=float, default=120, help="for each number of clients")
    parser.add_argument("--model", default="mimic_hybrid_ferplus", help="a model's name on the page")
    parser.add_argument("--browser", action="store_true", help="one real browser instead")
    parser.add_argument("--chromium", default="/usr/bin/chromium", metavar="PATH")
    arguments = parser.parse_args()
    with serving(max(arguments.clients)) as (address, pid):
        print(f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}", flush=True)
        if arguments.browser:
            in_browser(address, arguments.seconds, arguments.chromium)
            return
        print(HEADING, flush=True)
        for count in arguments.clients:
            seen = load(address, pid, arguments.model, count, arguments.seconds)
            print(seen.row, flush=True)
            for error in seen.errors:
                print(f"error: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
