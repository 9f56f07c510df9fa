"""Pictures are written, whole, with what was asked for in them."""

from pathlib import Path

import numpy as np
import pytest

from fer_app.errors import InputError
from fer_app.image_io import read_image
from training.metrics import calibration_bins, classification_report
from training.plots import draw_confusion, draw_embedding, draw_faces, draw_picture_rows, draw_reliability

RED, BLUE = (255, 0, 0), (0, 0, 255)
RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.ones(3), 60)
TARGETS = RNG.integers(0, 3, 60)


def share_of(path: Path, colour: tuple[int, int, int]) -> float:
    """How much of a picture has a colour."""
    return float((read_image(path) == colour).all(axis=2).mean())


def test_confusion_and_reliability_differ_with_the_figures(tmp_path: Path) -> None:
    drawn = []
    for shift in (0, 1):
        targets = (TARGETS + shift) % 3
        draw_confusion(classification_report(PROBS, targets, ("a", "b", "c")), tmp_path / "c.png", title="t")
        draw_reliability(calibration_bins(PROBS, targets), tmp_path / "r.png", title="t")
        drawn.append([read_image(tmp_path / name) for name in ("c.png", "r.png")])
    for ours, theirs in zip(*drawn, strict=True):
        assert ours.shape != theirs.shape or not np.array_equal(ours, theirs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.png", "r.png"]


@pytest.mark.parametrize("classes", [2, 20])
def test_every_class_has_a_look_of_its_own(tmp_path: Path, classes: int) -> None:
    points = np.stack([np.arange(classes), np.arange(classes) % 5], axis=1).astype(np.float32)
    labels = tuple(f"class {k}" for k in range(classes))
    draw_embedding(points, np.arange(classes), labels, tmp_path / "e.png", title="t")
    assert len({(k % 8, (k + k // 8) % 8) for k in range(classes)}) == classes
    assert share_of(tmp_path / "e.png", (0x00, 0x72, 0xB2)) > 0  # the first class


@pytest.mark.parametrize("n", [0, 1, 9])
def test_contact_sheet(tmp_path: Path, n: int) -> None:
    """Of names with dollar signs and bytes that are no text, too."""
    crops = np.broadcast_to(np.array(RED, np.uint8), (n, 10, 10, 3))
    captions = [("a$\\frac$.png", "anger →\n$fear$ 0.98"), ("b\udce9ü.png", "fear →\nanger 0.97"), *[("c", "d")] * 7]
    draw_faces(crops, captions[:n], tmp_path / "sheet.png", title="t")
    pixels = (read_image(tmp_path / "sheet.png") == RED).all(axis=2).sum()
    assert pixels == pytest.approx(n * 150**2, rel=0.15)


def test_gray_contact_sheet(tmp_path: Path) -> None:
    draw_faces(np.full((8, 10, 10), 37, np.uint8), [("a", "b")] * 8, tmp_path / "sheet.png", title="t")
    assert share_of(tmp_path / "sheet.png", (37, 37, 37)) > 0.4


def test_rows_of_pictures(tmp_path: Path) -> None:
    red, blue = (np.broadcast_to(np.array(colour, np.uint8), (3, 8, 8, 3)) for colour in (RED, BLUE))
    draw_picture_rows({"masked": red, "original": blue}, tmp_path / "rows.png", title="t")
    assert share_of(tmp_path / "rows.png", RED) > 0.25
    assert share_of(tmp_path / "rows.png", BLUE) > 0.25


@pytest.mark.parametrize("name", ["no/c.png", "c.nosuch"])
def test_what_cannot_be_written(tmp_path: Path, name: str) -> None:
    report = classification_report(PROBS, TARGETS, ("a", "b", "c"))
    with pytest.raises(InputError):
        draw_confusion(report, tmp_path / name, title="t")
    assert list(tmp_path.iterdir()) == []
