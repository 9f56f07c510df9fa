from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fer_app.video_faces.made_faces import made_faces, showing

from fer_app.annotate import label_colour
from fer_app.labels import LABELS
from fer_app.video_faces.storyboard import APART_S, MAX_MOMENTS, TILE_PX, Moment, Storyboard
from fer_app.video_faces.storyboard_sheet import draw_sheet, sheet_wh, write_sheet

IMAGE = np.random.default_rng(1).integers(0, 256, (100, 200, 3), np.uint8)


def told(moments: list[Moment]) -> list[tuple[str, float, float, int]]:
    return [(moment.label, round(moment.prob, 2), moment.time_s, moment.track_id) for moment in moments]


def test_the_peak_of_each_expression_and_neutral_last() -> None:
    board = Storyboard(LABELS, 0.3)
    for n in range(100):
        label, peak = ("neutral", 10) if n < 20 else ("surprise", 35) if n < 60 else ("happiness", 80)
        board.add(IMAGE, made_faces(n / 10, [1], [showing(label, 0.95 - 0.005 * abs(n - peak))]))
    best = [moment for moment in told(board.result()) if moment[1] == 0.95]
    assert best == [("happiness", 0.95, 8.0, 1), ("surprise", 0.95, 3.5, 1), ("neutral", 0.95, 1.0, 1)]


def test_what_is_not_clear_is_left_out() -> None:
    board = Storyboard(LABELS, 0.3)
    board.add(IMAGE, made_faces(0, [1], [showing("fear", 0.45)]))
    board.add(IMAGE, made_faces(1, [1], [showing("fear")], uncertain=np.array([True])))
    smoothed = showing("sadness")[None].astype(np.float32)
    # What is smoothed is not what this frame shows.
    board.add(IMAGE, made_faces(2, [1], [showing("fear")], smoothed_probs=smoothed))
    assert board.result() == []
    assert Storyboard(LABELS, 0.9)._least_prob == 0.9
    board.add(IMAGE, made_faces(3, [1], [showing("fear")], smoothed_probs=showing("fear", 0.6)[None]))
    assert told(board.result()) == [("fear", 0.6, 3, 1)]


def test_a_good_face_comes_before_a_more_probable_blurred_one() -> None:
    board = Storyboard(LABELS, 0.3)
    board.add(IMAGE, made_faces(0, [1], [showing("fear", 0.9)], quality=(("blurred",),)))
    board.add(IMAGE, made_faces(1, [1], [showing("fear", 0.6)]))
    board.add(IMAGE, made_faces(2, [1], [showing("fear", 0.99)], quality=(("dark",),)))
    board.add(IMAGE, made_faces(2.5, [1], [showing("fear", 0.602)], confidence=0.5))
    assert told(board.result()) == [("fear", 0.6, 1, 1)]


def test_moments_are_few_and_apart_and_the_best_is_always_held() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        board = Storyboard(LABELS, 0.3)
        probs = rng.uniform(0.5, 1, (300, 2)).round(4)
        for n, pair in enumerate(probs):
            board.add(IMAGE, made_faces(n / 10, [1, 2], [showing("anger", prob) for prob in pair]))
            assert sum(map(len, board._moments.values())) <= MAX_MOMENTS
        moments = board.result()
        assert len(moments) == MAX_MOMENTS
        assert moments[0].rank[1] == probs.max().round(2)
        assert [m.rank for m in moments] == sorted((m.rank for m in moments), reverse=True)
        for i, a in enumerate(moments):
            for b in moments[:i]:
                assert a.track_id != b.track_id or abs(a.time_s - b.time_s) >= APART_S


def test_crops_are_the_frame_and_independent_of_it() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[40:60, 150:170] = (250, 10, 10)
    board = Storyboard(LABELS, 0.3)
    boxes = [[140, 30, 180, 70], [-20, -20, 20, 20], [0, 0, 200, 100]]
    board.add(image, made_faces(0, [1, 2, 3], [showing(label) for label in ("fear", "anger", "disgust")], boxes=boxes))
    image[:] = 255
    crops = {moment.label: moment.crop for moment in board.result()}
    assert {crop.shape for crop in crops.values()} == {(TILE_PX, TILE_PX, 3)}
    red = np.argwhere(crops["fear"][..., 0] > 125)
    # 20 of 68 px, in the middle.
    assert red.mean(axis=0) == pytest.approx([TILE_PX / 2 - 0.5] * 2, abs=2)
    assert np.ptp(red, axis=0) == pytest.approx([TILE_PX * 20 / 68] * 2, abs=4)
    assert crops["anger"].max() == 0


def test_blur_keeps_no_face_not_even_a_neighbours() -> None:
    board = Storyboard(LABELS, 0.3, blur=True)
    # A narrow box: the square around it shows what is beside it.
    boxes = [[40, 30, 60, 70], [20, 40, 32, 60]]
    unseen = np.array([[68, 40, 80, 60]], np.float32)
    probs = [showing("fear"), showing("neutral", 0.3)]
    board.add(IMAGE, made_faces(0, [1, 2], probs, boxes=boxes), unseen)
    sharp = Storyboard(LABELS, 0.3)
    sharp.add(IMAGE, made_faces(0, [1, 2], probs, boxes=boxes), unseen)
    (hidden,), (shown,) = board.result(), sharp.result()
    # 68 px of the picture, from (16, 16) on.
    scale = TILE_PX / 68

    def detail(crop: np.ndarray, x: int, y: int) -> float:
        part = crop[int((y - 20) * scale) : int((y - 12) * scale), int((x - 20) * scale) : int((x - 12) * scale)]
        return float(np.abs(np.diff(part.astype(int), axis=1)).mean())

    for x, y in ((50, 50), (26, 50), (74, 50)):
        assert detail(hidden.crop, x, y) < detail(shown.crop, x, y) / 5
    assert detail(hidden.crop, 74, 76) == detail(shown.crop, 74, 76)


def test_a_sheet(tmp_path: Path) -> None:
    moments = []
    for n, label in enumerate(["happiness", "fear", "anger", "disgust", "neutral"]):
        crop = np.full((TILE_PX, TILE_PX, 3), 40 * n + 20, np.uint8)
        moments.append(Moment(label, 0.9, 61.5 + n, n, (True, 0.9, 1.0), crop))
    write_sheet(tmp_path / "s.jpg", draw_sheet(moments, LABELS, "clip.mp4", blurred=False))
    with Image.open(tmp_path / "s.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", sheet_wh(5))
        pixels = np.asarray(picture).astype(int)
    for n, moment in enumerate(moments):
        left, top = 18 + (n % 4) * 242, 84 + (n // 4) * 306
        colour = label_colour(moment.label, LABELS.index(moment.label))
        assert np.abs(pixels[top + 4, left + 4 : left + 220] - colour).mean() < 12
        assert pixels[top + 34 + 112, left + 112] == pytest.approx([40 * n + 20] * 3, abs=3)
        below = pixels[top + 34 + 224 : top + 34 + 254, left : left + 224].max(axis=2)
        assert (below > 180).any(axis=0)[:112].any()  # the time
        assert (below > 180).any(axis=0)[112:].any()  # the number


@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "\udce9 \n.mp4", "笑.mp4", ""])
def test_any_name_fits(name: str) -> None:
    pixels = np.asarray(draw_sheet([], LABELS, name, blurred=False))
    assert pixels.shape[1::-1] == sheet_wh(0)
    assert (pixels[:, -17:] == pixels[0, 0]).all()


def test_a_sheet_says_what_it_does_not_show() -> None:
    sheets = [np.asarray(draw_sheet([], LABELS, "clip.mp4", blurred=blurred)) for blurred in (False, True)]
    assert (sheets[0][50:75].max(axis=(0, 2)) > 150).sum() < (sheets[1][50:75].max(axis=(0, 2)) > 150).sum()
