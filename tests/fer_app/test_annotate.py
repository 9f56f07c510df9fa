from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from fer_app import annotate
from fer_app.annotate import draw_faces, label_colour
from fer_app.label_layout import SteadyLooks, lay_out, load_font
from fer_app.labels import LABELS
from fer_app.results import NO_TRACK, Detections, Faces

UInt8 = npt.NDArray[np.uint8]
Rect = tuple[int, int, int, int]


def faces(image: UInt8, boxes: Any, top: int = 1, **changes: Any) -> Faces:
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    n = len(boxes)
    probs = np.full((n, len(LABELS)), 0.02, np.float32)
    probs[:, top] = 0.86
    values: dict[str, Any] = {
        "source": "test",
        "width": image.shape[1],
        "height": image.shape[0],
        "detections": Detections(boxes, np.ones(n, np.float32), np.full((n, 5, 2), np.nan, np.float32)),
        "probs": probs,
        "labels": LABELS,
        "uncertain": np.zeros(n, bool),
        "quality": ((),) * n,
    }
    return Faces(**(values | changes))


def gray(height: int, width: int) -> UInt8:
    return np.full((height, width, 3), 90, np.uint8)


def changed(image: UInt8, drawn: UInt8) -> npt.NDArray[np.bool_]:
    return np.asarray((image != drawn).any(axis=2))


def grid(rows: int, columns: int, step_x: float, step_y: float, wide: float, high: float) -> list[list[float]]:
    corners = itertools.product(range(rows), range(columns))
    return [[c * step_x + 20, r * step_y + 20, c * step_x + 20 + wide, r * step_y + 20 + high] for r, c in corners]


class Recorder:
    """Remembers every place that something was drawn into."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chips: list[Rect] = []
        self.texts: list[str] = []
        self.panels: list[Rect] = []
        draw_chip, draw_panel = annotate._draw_chip, annotate._draw_panel

        def chip(pixels: UInt8, what: Any, *rest: Any) -> None:
            self.chips.append(what.rect)
            self.texts.append(what.text)
            draw_chip(pixels, what, *rest)

        def panel(pixels: UInt8, what: Any, *rest: Any) -> None:
            self.panels.append(what.rect)
            draw_panel(pixels, what, *rest)

        monkeypatch.setattr(annotate, "_draw_chip", chip)
        monkeypatch.setattr(annotate, "_draw_panel", panel)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (480, 640), (3000, 4000)])
def test_one_face_at_any_size(height: int, width: int, recorder: Recorder) -> None:
    image = gray(height, width)
    before = image.copy()
    box = [width * 0.3, height * 0.3, width * 0.5, height * 0.6]
    drawn = draw_faces(image, faces(image, [box]))
    np.testing.assert_array_equal(image, before)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert drawn.flags.writeable
    # The box's left edge is in the label's colour, half-way down.
    left = drawn[round(height * 0.45), int(box[0]) : int(box[0]) + max(8, width // 60)]
    assert (left == label_colour("happiness", 1)).all(axis=1).any()
    # The middle of the face stays as it was.
    assert not changed(image, drawn)[round(height * 0.42) : round(height * 0.48), round(width * 0.4)].any()
    assert len(recorder.chips) == 1
    assert len(recorder.panels) == (0 if height == 64 else 1)


def test_text_grows_with_the_picture(recorder: Recorder) -> None:
    for side in (480, 3000):
        image = gray(side, side)
        draw_faces(image, faces(image, [[side * 0.4, side * 0.4, side * 0.6, side * 0.6]]))
    (small, large) = (rect[3] - rect[1] for rect in recorder.chips)
    assert 4 < large / small < 9


def test_bars_are_as_large_as_there_is_room_for(recorder: Recorder) -> None:
    image = gray(3200, 2000)
    draw_faces(image, faces(image, [[640, 550, 1350, 1450]]))
    (panel,) = recorder.panels
    # The largest would be wider than the margin; the smallest takes less than half of it.
    assert 450 < panel[2] - panel[0] <= 650


def test_no_face_is_a_copy() -> None:
    image = gray(40, 50)
    drawn = draw_faces(image, faces(image, []))
    np.testing.assert_array_equal(drawn, image)
    drawn[:] = 0
    assert image.min() == 90


def overlap(a: Rect, b: Rect) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def test_sixty_faces_have_a_label_each_and_no_bars(recorder: Recorder) -> None:
    image = gray(720, 1280)
    boxes = grid(6, 10, 126, 116, 60, 75)
    drawn = draw_faces(image, faces(image, boxes))
    assert len(recorder.chips) == 60
    assert recorder.panels == []
    assert sum(overlap(a, b) for a, b in itertools.combinations(recorder.chips, 2)) == 0
    # No face is hidden: the middle of every box is untouched.
    for x0, y0, x1, y1 in boxes:
        assert not changed(image, drawn)[round((y0 + y1) / 2), round((x0 + x1) / 2)]


def test_labels_are_shortened_where_faces_crowd(recorder: Recorder) -> None:
    image = gray(300, 600)
    draw_faces(image, faces(image, grid(3, 9, 62, 80, 40, 50)))
    assert len(recorder.texts) == 27
    assert set(recorder.texts) <= {"happiness 86%", "happiness"}
    assert "happiness" in recorder.texts


def test_a_row_of_people_has_all_panels_below(recorder: Recorder) -> None:
    image = gray(480, 640)
    boxes = [[60, 60, 140, 160], [280, 60, 360, 160], [500, 60, 580, 160]]
    draw_faces(image, faces(image, boxes))
    assert len(recorder.panels) == 3
    assert all(panel[1] >= 160 for panel in recorder.panels)


@given(
    size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    boxes=st.lists(st.tuples(*[st.floats(-0.4, 1.4)] * 4), max_size=5),
    uncertain=st.booleans(),
)
@settings(max_examples=80)
def test_nothing_leaves_the_canvas(
    size: tuple[int, int], boxes: list[tuple[float, float, float, float]], uncertain: bool
) -> None:
    height, width = size
    image = gray(height, width)
    rects = [
        [min(a, c) * width, min(b, d) * height, max(a, c) * width + 0.5, max(b, d) * height + 0.5]
        for a, b, c, d in boxes
    ]
    found = faces(image, rects, uncertain=np.full(len(rects), uncertain))
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch)
        drawn = draw_faces(image, found)
    assert drawn.shape == image.shape
    for x0, y0, x1, y1 in recorder.chips + recorder.panels:
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
    visible = [
        (max(0, int(x0)), max(0, int(y0)), min(width, int(x1) + 1), min(height, int(y1) + 1))
        for x0, y0, x1, y1 in rects
    ]
    for panel in recorder.panels:
        assert sum(overlap(panel, chip) for chip in recorder.chips) == 0
        # At most one face, its own, is touched, and that one by a quarter.
        touched = [
            overlap(panel, box) / ((box[2] - box[0]) * (box[3] - box[1])) for box in visible if overlap(panel, box)
        ]
        assert len(touched) <= 1
        assert all(share <= 0.26 for share in touched)


def test_a_face_outside_the_picture_is_not_drawn() -> None:
    image = gray(100, 100)
    np.testing.assert_array_equal(draw_faces(image, faces(image, [[200, 200, 260, 260]])), image)


@pytest.mark.parametrize("box", [[0, 0, 520, 560], [-30, -40, 560, 600]])
def test_a_face_that_fills_the_picture_has_its_label_inside(box: list[float], recorder: Recorder) -> None:
    image = gray(560, 520)
    drawn = draw_faces(image, faces(image, [box]))
    assert len(recorder.chips) == 1
    assert changed(image, drawn).any()


def test_an_uncertain_face_shows_its_two_best_labels(recorder: Recorder) -> None:
    image = gray(480, 640)
    probs = np.array([[0.05, 0.4, 0.35, 0.05, 0.05, 0.05, 0.03, 0.02]], np.float32)
    draw_faces(image, faces(image, [[200, 200, 300, 320]], probs=probs, uncertain=np.array([True])))
    assert recorder.texts == ["happiness? / surprise?"]


def test_tracks_are_numbered(recorder: Recorder) -> None:
    image = gray(480, 640)
    boxes = [[100, 200, 200, 320], [400, 200, 480, 300]]
    draw_faces(image, faces(image, boxes, track_ids=np.array([17, NO_TRACK])))
    assert recorder.texts == ["#17 happiness 86%", "happiness 86%"]


def test_labels_of_a_crowd_stay_where_they_are_while_sizes_jitter(recorder: Recorder) -> None:
    image = gray(720, 1280)
    boxes = np.array(grid(6, 12, 103, 116, 30, 40))
    random, places = np.random.default_rng(0), []
    for _ in range(5):
        # As detection gives them: largest first.
        jittered = boxes + random.uniform(-0.9, 0, boxes.shape)
        order = np.argsort(-(jittered[:, 2:] - jittered[:, :2]).prod(axis=1))
        recorder.chips.clear()
        recorder.texts.clear()
        draw_faces(image, faces(image, jittered[order], track_ids=order + 1))
        places.append(dict(zip([text.split()[0] for text in recorder.texts], recorder.chips, strict=True)))
    first, *rest = places
    assert len(first) == 72
    assert all(np.abs(np.subtract(one[name], first[name])).max() <= 1 for one in rest for name in first)


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("top", range(8))
def test_label_text_contrasts_with_its_background(level: int, top: int, recorder: Recorder) -> None:
    image = np.full((480, 640, 3), level, np.uint8)
    drawn = draw_faces(image, faces(image, [[200, 200, 320, 340]], top=top))
    x0, y0, x1, y1 = recorder.chips[0]
    luma = cv2.cvtColor(np.ascontiguousarray(drawn[y0:y1, x0:x1]), cv2.COLOR_RGB2GRAY).astype(float)
    assert luma.max() - luma.min() > 90


@pytest.mark.parametrize("top", range(8))
def test_the_box_is_visible_on_its_own_colour(top: int) -> None:
    image = np.empty((480, 640, 3), np.uint8)
    image[:] = label_colour(LABELS[top], top)
    drawn = draw_faces(image, faces(image, [[200, 200, 320, 340]], top=top))
    assert np.abs(drawn[270, 195:215].astype(int) - image[270, 195:215]).max() > 50


def test_bars_are_as_long_as_the_probabilities() -> None:
    image = gray(480, 640)
    probs = np.array([[0.0, 0.5, 0.25, 0.0, 0.0, 0.25, 0.0, 0.0]], np.float32)
    drawn = draw_faces(image, faces(image, [[100, 100, 200, 220]], probs=probs))
    # Right of the box there is only the panel.
    lengths = {
        label: (drawn[:, 210:] == label_colour(label, k)).all(axis=2).sum(axis=1).max()
        for k, label in enumerate(LABELS)
    }
    assert lengths["happiness"] > 20
    assert abs(lengths["happiness"] - 2 * lengths["surprise"]) <= 1
    assert lengths["surprise"] == lengths["disgust"]
    assert lengths["anger"] == lengths["sadness"] == 0


def test_every_class_has_its_own_colour() -> None:
    assert len({label_colour(label, k) for k, label in enumerate(LABELS)}) == len(LABELS)
    assert label_colour("anger", 0) == label_colour("anger", 5)
    assert label_colour("boredom", 3) == label_colour("boredom", 11)


def test_other_labels_and_a_view_as_picture(recorder: Recorder) -> None:
    image = gray(480, 1280)[:, ::2]
    found = faces(
        image, [[100, 100, 200, 220]], labels=("positive", "négatif"), probs=np.array([[0.2, 0.8]], np.float32)
    )
    draw_faces(image, found)
    assert recorder.texts == ["négatif 80%"]


@pytest.mark.parametrize("image", [gray(479, 640), gray(480, 640)[..., 0], gray(480, 640).astype(np.float32)])
def test_another_picture_is_refused(image: Any) -> None:
    with pytest.raises(ValueError, match=r"image must be uint8 of shape \(480, 640, 3\)"):
        draw_faces(image, faces(gray(480, 640), []))


def looks_of(boxes: list[tuple[float, float, float, float]], steady: SteadyLooks | None) -> list[tuple[int, int]]:
    """Size and place of the label of one tracked face in successive frames of 640 x 360 px."""
    found = []
    for box in boxes:
        look = lay_out(faces(gray(360, 640), box, track_ids=np.array([1])), steady)[0]
        assert look.chip is not None
        found.append((look.chip.font_px, look.chip.place))
    return found


def changes(values: list[tuple[int, int]]) -> int:
    return sum(a != b for a, b in itertools.pairwise(values))


def test_a_box_that_trembles_leaves_its_label_as_it_is() -> None:
    """Its upper edge is now and then too high for a label above it, and its size at the edge of another font's."""
    random = np.random.default_rng(0)
    boxes = [(200 + dx, 18 + dy, 300 + dx, 118 + 1.04 * dy) for dx, dy in random.normal(0, 4, (60, 2))]
    assert changes(looks_of(boxes, None)) > 20
    assert changes(looks_of(boxes, SteadyLooks())) <= 2


def test_a_face_that_comes_nearer_has_larger_text_all_the_same() -> None:
    boxes = [(50.0, 100.0, 120.0 + 2 * i, 170.0 + 2 * i) for i in range(60)]
    steady = [size for size, _ in looks_of(boxes, SteadyLooks())]
    anew = [size for size, _ in looks_of(boxes, None)]
    assert steady == sorted(steady)
    assert max(abs(a - b) for a, b in zip(steady, anew, strict=True)) <= 2
    assert steady[-1] > steady[0]


def test_a_label_that_leaves_the_picture_goes_to_the_other_side() -> None:
    boxes = [(200.0, 60.0 - 2 * i, 300.0, 160.0 - 2 * i) for i in range(30)]
    places = [place for _, place in looks_of(boxes, SteadyLooks())]
    assert places[0] == 0
    assert places[-1] == 2
    assert places == sorted(places)


def test_another_face_in_the_same_place_is_laid_out_anew() -> None:
    steady = SteadyLooks()
    below = faces(gray(360, 640), (200, 0, 300, 100), track_ids=np.array([1]))
    higher = {"box": (200, 40, 300, 140), "image": gray(360, 640)}
    assert [look.chip.place for look in lay_out(below, steady).values() if look.chip] == [2]
    for track, place in ((1, 2), (2, 0)):
        chip = lay_out(faces(higher["image"], higher["box"], track_ids=np.array([track])), steady)[0].chip
        assert chip is not None
        assert chip.place == place


def test_faces_without_a_track_are_laid_out_anew() -> None:
    steady = SteadyLooks()
    lay_out(faces(gray(360, 640), (200, 0, 300, 100), track_ids=np.array([NO_TRACK])), steady)
    chip = lay_out(faces(gray(360, 640), (200, 40, 300, 140), track_ids=np.array([NO_TRACK])), steady)[0].chip
    assert chip is not None
    assert chip.place == 0
    assert lay_out(faces(gray(360, 640), (200, 40, 300, 140)), steady)[0].chip == chip


@pytest.mark.parametrize("anchor", ["lm", "rm"])
@pytest.mark.parametrize("text", ["happiness", "#12 fear 7%", "0%", "100%", "jgÄ?", " "])
def test_text_is_drawn_as_pillow_draws_it(text: str, anchor: str) -> None:
    rng = np.random.default_rng(0)
    for font_px, xy in ((8, (40, 20.5)), (11, (50.25, 20.0)), (19, (45, 21.75)), (30, (90, 25.5))):
        pixels = rng.integers(0, 256, (50, 180, 3), np.uint8)
        ours, theirs = Image.fromarray(pixels), Image.fromarray(pixels)
        ImageDraw.Draw(theirs, "RGBA").text(xy, text, fill=(205, 205, 30), font=load_font(font_px), anchor=anchor)
        for _ in range(2):  # made, and found again
            again = ours.copy()
            annotate._write(ImageDraw.Draw(again, "RGBA"), xy, text, font_px, (205, 205, 30), anchor)
            np.testing.assert_array_equal(np.asarray(again), np.asarray(theirs))
