"""Half an hour of video takes as much memory as its first minutes."""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from tests.fer_app.video.conftest import make_clip

from fer_app.video_faces import read_summary

MINUTES = float(os.environ.get("FER_LONG_MINUTES", "30"))
FPS = 30
# One round of the pictures, which the clip repeats: encoded once, so that half an hour is made in a minute.
ROUND_S = 20
SAMPLE_S = 0.5
# While it starts, the networks are loaded and every arena of the heap is filled for the first time.
WARM_UP = 0.1
MOST_GROWTH_MB = 50


class OneRound(Sequence[npt.NDArray[np.uint8]]):
    """Two faces on their ways, uint8 (720, 1280, 3), RGB; one is away for a third of the time, and new when it is back.

    Drawn when asked for: all of it at once would be 1.7 GB.
    """

    def __init__(self, portrait: npt.NDArray[np.uint8]) -> None:
        self._left, self._right = cv2.resize(portrait, (300, 300)), cv2.resize(portrait, (200, 200))

    def __len__(self) -> int:
        return ROUND_S * FPS

    def __getitem__(self, number: Any) -> Any:
        image = np.full((720, 1280, 3), (85, 102, 119), np.uint8)
        angle = 2 * np.pi * number / len(self)
        x, y = 120 + round(80 * np.sin(3 * angle)), 200 + round(80 * np.cos(2 * angle))
        image[y : y + 300, x : x + 300] = self._left
        if number * 3 // len(self) != 1:
            x, y = 850 + round(100 * np.cos(2 * angle)), 250 + round(60 * np.sin(5 * angle))
            image[y : y + 200, x : x + 200] = self._right
        return image


def make_long(path: Path, portrait: npt.NDArray[np.uint8], rounds: int) -> Path:
    """Repeat one round, with its sound, without encoding it again."""
    once = make_clip(
        path.with_name("once.mp4"),
        times=range(ROUND_S * FPS),
        time_base=Fraction(1, FPS),
        size=(1280, 720),
        # Neither reordered nor open at its end, so that packets only have to be shifted.
        options={"crf": "20", "preset": "ultrafast", "bf": "0", "threads": "0"},
        pictures=OneRound(portrait),
        sounds=[{"codec": "aac", "seconds": 10}],
    )
    with av.open(str(once)) as source, av.open(str(path), "w") as target:
        sound = [bytes(packet) for packet in source.demux(audio=0) if packet.size]
        picture_stream, sound_stream = source.streams.video[0], source.streams.audio[0]
        pictures = target.add_stream_from_template(picture_stream)
        sounds = target.add_stream_from_template(sound_stream)
        sounded = 0
        for number in range(rounds):
            source.seek(0)
            shift = round(number * ROUND_S / picture_stream.time_base)
            for packet in source.demux(picture_stream):
                if packet.size:
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, pictures
                    target.mux(packet)
            while sounded * 1024 < (number + 1) * ROUND_S * 48000:
                packet = av.Packet(sound[sounded % len(sound)])
                packet.pts = packet.dts = sounded * 1024
                packet.time_base, packet.duration, packet.stream = Fraction(1, 48000), 1024, sounds
                target.mux(packet)
                sounded += 1
    once.unlink()
    return path


class Sample(NamedTuple):
    """What a process takes at one moment."""

    time_s: float
    resident_mb: float


def sampled(process: subprocess.Popen[str]) -> list[Sample]:
    """Look at a process until it ends."""
    begin, samples = time.monotonic(), []
    page_mb = os.sysconf("SC_PAGE_SIZE") / 1e6
    while process.poll() is None:
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        if pages:  # none are left while it ends
            samples.append(Sample(time.monotonic() - begin, pages * page_mb))
        time.sleep(SAMPLE_S)
    return samples


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is asked for as Linux has it")
def test_memory_does_not_grow_with_the_length(
    tmp_path: Path, astronaut: npt.NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = round(MINUTES * 60 / ROUND_S)
    clip = make_long(tmp_path / "long.mp4", astronaut[:400, 50:450], rounds)
    command = [sys.executable, "-c", "from fer_app.cli import main; main()", "annotate", str(clip)]
    with (
        (tmp_path / "stderr.txt").open("w") as stderr,
        subprocess.Popen(
            [*command, "-o", str(tmp_path / "out"), "--device", "cpu"],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            samples = sampled(process)
        finally:
            process.kill()
    assert process.returncode == 0, (tmp_path / "stderr.txt").read_text()[-2000:]

    warm = [sample for sample in samples if sample.time_s > WARM_UP * samples[-1].time_s]
    tenths = [
        [sample.resident_mb for sample in warm[len(warm) * i // 10 : len(warm) * (i + 1) // 10]] for i in range(10)
    ]
    lines = [f"{rounds * ROUND_S * FPS} frames in {samples[-1].time_s:.0f} s; MB resident, tenths after the start:"]
    lines += [f"  {min(part):.0f} to {max(part):.0f}, median {statistics.median(part):.0f}" for part in tenths]
    lines += [f"  peak with the start and the end: {max(sample.resident_mb for sample in samples):.0f}"]
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")

    summary = read_summary(tmp_path / "out" / "long.json")
    assert summary is not None
    assert (summary["complete"], summary["sound"]) == (True, "copied (aac)")
    assert summary["frames"] == rounds * ROUND_S * FPS
    with (tmp_path / "out" / "long.csv").open(newline="") as file:
        assert sum(1 for row in csv.DictReader(file) if row["face"]) == summary["faces"]
    medians = [statistics.median(values) for values in tenths]
    assert max(medians) - min(medians) < MOST_GROWTH_MB, json.dumps(medians)
