"""The files of `fer annotate` play in a browser: headless Chromium is asked, where there is one."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fer_app.video.browser import needs_chromium, play
from tests.fer_app.video.conftest import make_clip
from typer.testing import CliRunner

from fer_app.cli import app
from fer_app.video import VideoReader

pytestmark = needs_chromium

# Size, and whether there is sound.
WANTED = {"phone": ((240, 320), True), "nobody": ((130, 98), False)}


@pytest.fixture(scope="module")
def told(
    tiny_model: Path, _astronaut_pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What the browser said of each file; `wanted_s` is how long its source is."""
    folder = tmp_path_factory.mktemp("annotated")
    # Held upright, 29.97 pictures a second, sound that has to be transcoded.
    upright = [_astronaut_pixels[:320, 80 + i : 320 + i] for i in range(50)]
    phone = make_clip(
        folder / "phone.mov",
        times=[1001 * i for i in range(50)],
        time_base=Fraction(1, 30000),
        size=(320, 240),
        pictures=[np.ascontiguousarray(np.rot90(picture, -1)) for picture in upright],
        rotation=90,
        sounds=[{"codec": "pcm_s16le", "seconds": 1.6}],
    )
    nobody = make_clip(folder / "nobody.webm", codec="libvpx-vp9", size=(129, 97), times=range(50))
    command = ["annotate", str(phone), str(nobody), "-o", str(folder), "--model", str(tiny_model), "--device", "cpu"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.stderr
    assert json.loads((folder / "phone.json").read_text())["faces"] == 50
    results = play({name: folder / f"{name}.mp4" for name in WANTED}, folder / "profile")
    for source in (phone, nobody):
        with VideoReader(source) as reader:
            assert len(list(reader)) == 50
            results[source.stem]["wanted_s"] = reader.end_s
    return results


@pytest.mark.parametrize("name", WANTED)
def test_an_annotated_video_plays(told: dict[str, dict[str, Any]], name: str) -> None:
    result, (size, sound) = told[name], WANTED[name]
    assert result["error"] is None
    assert result["events"][:3] == ["loadedmetadata", "canplaythrough", "playing"]
    assert result["ended"], result
    assert result["duration"] == pytest.approx(result["wanted_s"], abs=0.03)
    assert (result["width"], result["height"]) == size
    assert result["played"] > 0.3
    assert result["shown"] > 3
    assert (result["sound"] > 0) == sound
