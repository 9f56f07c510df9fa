"""What is written plays in a browser: headless Chromium is asked, where there is one."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from tests.fer_app.video.browser import needs_chromium, play
from tests.fer_app.video.conftest import make_clip

from fer_app.video import VideoReader, VideoWriter

pytestmark = needs_chromium


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
