from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fer_app.video_faces.made_faces import made_faces, showing

from fer_app.annotate import label_colour
from fer_app.errors import MissingExtraError
from fer_app.labels import LABELS
from fer_app.video_faces.timeline import ExpressionTimeline, Timeline
from fer_app.video_faces.timeline_plot import clock, plot_timeline

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs the extra plots")


def made_timeline(persons: int, seconds: float = 20.0) -> Timeline:
    """Everybody is happy, and angry in the second half; nobody is seen in the third fifth."""
    timeline = ExpressionTimeline(LABELS)
    for time_s in np.arange(0, seconds, 0.1):
        tracks = [] if 2 <= time_s / seconds * 5 < 3 else list(range(1, persons + 1))
        label = "happiness" if time_s < seconds / 2 else "anger"
        timeline.add(made_faces(float(time_s), tracks, [showing(label, 0.9)] * len(tracks)))
    return timeline.result(seconds)


def plotted(path: Path, timeline: Timeline, title: str = "clip.mp4") -> np.ndarray:
    plot_timeline(path, timeline, title)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def columns_of(pixels: np.ndarray, label: str) -> np.ndarray:
    """Where a label's colour is, in px from the left."""
    colour = label_colour(label, LABELS.index(label))
    return np.flatnonzero((np.abs(pixels.astype(int) - colour).max(axis=2) < 12).any(axis=0))


@needs_matplotlib
def test_lines_lie_where_the_expression_is_shown(tmp_path: Path) -> None:
    pixels = plotted(tmp_path / "t.png", made_timeline(1))
    assert pixels.shape == (396, 1440, 3)
    # The upper half of the panel, below the head: 0.75 and 0.35 inches beside it.
    left, right = 90, 1440 - 42
    panel = pixels[150:231]
    happy, angry = columns_of(panel, "happiness"), columns_of(panel, "anger")
    wide = right - left
    assert happy.min() == pytest.approx(left, abs=4)
    assert happy.max() == pytest.approx(left + 0.4 * wide, abs=4)
    assert angry.min() == pytest.approx(left + 0.6 * wide, abs=4)
    assert angry.max() == pytest.approx(right, abs=4)
    # The legend, and nothing cut off at the right edge.
    head = pixels[75:105]
    assert all(len(columns_of(head, label)) > 10 for label in LABELS)
    ground = pixels[0, 0]
    assert (pixels[:105, -10:] == ground).all()
    assert (pixels[-8:] == ground).all()


@needs_matplotlib
def test_a_panel_for_each_person(tmp_path: Path) -> None:
    heights = [plotted(tmp_path / "t.png", made_timeline(n)).shape[0] for n in (1, 2, 8)]
    assert np.diff(heights).tolist() == [210, 6 * 210]


@needs_matplotlib
@pytest.mark.parametrize("name", ["a $x$ _ \\frac.mp4", "笑 😀.mp4", "\udce9.mp4", "x" * 250 + ".mp4"])
def test_any_name_is_a_title_without_a_warning(tmp_path: Path, name: str) -> None:
    pixels = plotted(tmp_path / "t.png", made_timeline(1), name)
    title = (pixels[20:64].max(axis=(0, 2)) > 150).nonzero()[0]
    assert 20 < title.min() < 50
    assert title.max() < 1430


@needs_matplotlib
@pytest.mark.parametrize("seconds", [0.4, 10, 7200])
def test_short_and_long_videos(tmp_path: Path, seconds: float) -> None:
    timeline = ExpressionTimeline(LABELS)
    for time_s in np.linspace(0, seconds, 50, endpoint=False):
        timeline.add(made_faces(float(time_s), [1], [showing("fear")]))
    assert len(columns_of(plotted(tmp_path / "t.png", timeline.result(seconds))[120:], "fear")) > 1250


@needs_matplotlib
def test_no_face_and_no_state_is_left(tmp_path: Path) -> None:
    loaded = "matplotlib.pyplot" in sys.modules
    empty = ExpressionTimeline(LABELS)
    empty.add(made_faces(0.0, [], []))
    pixels = plotted(tmp_path / "t.png", empty.result(5.0))
    assert pixels.shape[:2] == (396, 1440)
    assert ("matplotlib.pyplot" in sys.modules) == loaded
    assert [path.name for path in tmp_path.iterdir()] == ["t.png"]


def test_a_missing_matplotlib_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    empty = ExpressionTimeline(LABELS).result(1.0)
    with pytest.raises(MissingExtraError, match=r"fer-mimic\[plots\]"):
        plot_timeline(tmp_path / "t.png", empty, "clip.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("time_s", "text", "tenths"),
    [
        (0, "0:00", "0:00.0"),
        (59.96, "1:00", "1:00.0"),
        (67.24, "1:07", "1:07.2"),
        (3599.5, "1:00:00", "59:59.5"),
        (3723, "1:02:03", "1:02:03.0"),
    ],
)
def test_clock(time_s: float, text: str, tenths: str) -> None:
    assert (clock(time_s), clock(time_s, fraction=True)) == (text, tenths)
