from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from fer_app import Recognizer
from fer_app.alignment import align_faces
from fer_app.contract import Contract
from fer_app.preprocess import to_input
from fer_app.ui.html import bars, escaped, problem
from fer_app.ui.photo import MOST_PICTURES, records_of, seen_pixels, show_photos


@pytest.fixture(scope="module")
def recognizer(tiny_model):
    return Recognizer(tiny_model, device="cpu", max_pixels=2_000_000)


@pytest.fixture
def several(tmp_path, astronaut):
    """Two faces beside each other."""
    path = tmp_path / "two.png"
    Image.fromarray(np.concatenate([astronaut, astronaut[:, ::-1]], axis=1)).save(path)
    return path


def test_every_face_has_a_box_and_a_panel(recognizer, several, tmp_path) -> None:
    html = show_photos(recognizer, [str(several)], tmp_path)
    assert html.count('class="fer-box"') == html.count('class="fer-face"') == 2
    assert re.findall(r'data-fer-face="([\w-]+)"', html) == re.findall(r'<article class="fer-face" id="([\w-]+)"', html)
    assert "two.png: 2 faces" in html
    assert "Read by" not in html
    assert "Read by a &lt;model&gt; (fast)." in show_photos(
        recognizer, [str(several)], tmp_path, model="a <model> (fast)"
    )
    assert "data:image/png;base64," in html
    assert "\n" not in html
    assert (tmp_path / "two_faces.jpg").is_file()
    records = json.loads((tmp_path / "faces.json").read_text())
    assert [record["face"] for record in records] == [0, 1]
    assert {record["source"] for record in records} == {"two.png"}
    assert (tmp_path / "faces.csv").read_text().count("\n") == 3


def test_boxes_lie_over_the_faces(recognizer, several, tmp_path) -> None:
    html = show_photos(recognizer, [str(several)], tmp_path)
    faces = recognizer.predict(several)
    places = re.findall(r"left:([\d.]+)%;top:([\d.]+)%;width:([\d.]+)%;height:([\d.]+)%", html)
    for box, place in zip(faces.detections.boxes, places, strict=True):
        x, y, width, height = (float(number) / 100 for number in place)
        scaled = np.array([x, y, x + width, y + height]) * [1024, 512, 1024, 512]
        assert np.abs(scaled - box).max() < 0.1


def test_several_pictures_are_a_gallery_of_which_one_is_shown(recognizer, astronaut_path, several, tmp_path) -> None:
    html = show_photos(recognizer, [str(astronaut_path), str(several)], tmp_path)
    assert html.count("data-fer-photo=") == 2
    assert re.findall(r'<section class="fer-photo" id="([\w-]+)"[^>]*?( hidden)?>', html) == [
        ("fer-p0", ""),
        ("fer-p1", " hidden"),
    ]


def test_an_uncertain_face_has_two_candidates(tiny_model, astronaut_path, tmp_path) -> None:
    doubting = Recognizer(tiny_model, device="cpu", uncertain_below=1.0)
    faces = doubting.predict(astronaut_path)
    first, second = np.sort(faces.probs[0])[::-1][:2]
    labels = dict(zip(faces.probs[0].tolist(), faces.labels, strict=True))
    said = f"uncertain, {labels[float(first)]} {100 * first:.0f} % or {labels[float(second)]} {100 * second:.0f} %"
    html = show_photos(doubting, [str(astronaut_path)], tmp_path)
    assert f"<h2>Face 1: {said}</h2>" in html
    assert html.count(said) == 3  # the title, the box over the picture, and what the picture shows
    assert json.loads((tmp_path / "faces.json").read_text())[0]["uncertain"] is True
    sure = show_photos(Recognizer(tiny_model, device="cpu", uncertain_below=0.0), [str(astronaut_path)], tmp_path)
    assert f"<h2>Face 1: {faces.label(0)} {100 * first:.0f} %</h2>" in sure


def test_no_face_is_no_error(recognizer, tmp_path) -> None:
    Image.new("RGB", (200, 100), "gray").save(tmp_path / "wall.png")
    html = show_photos(recognizer, [str(tmp_path / "wall.png")], tmp_path)
    assert "No face was found in this picture." in html
    assert "fer-problem" not in html


def test_what_is_no_picture_is_told_and_the_rest_shown(recognizer, astronaut_path, tmp_path) -> None:
    text, large, cut = tmp_path / "notes.jpg", tmp_path / "large.png", tmp_path / "cut.jpg"
    text.write_text("no picture")
    Image.new("L", (2000, 1001)).save(large)
    cut.write_bytes(astronaut_path.read_bytes()[:3000])
    html = show_photos(recognizer, [str(text), str(large), str(cut), str(astronaut_path)], tmp_path)
    problems = re.findall(r'<p class="fer-problem" role="alert">(.*?)</p>', html)
    assert len(problems) == 3
    assert problems[0].startswith("Notes.jpg: not a picture")
    assert problems[1].startswith("Large.png: 2000 x 1001 px is more than the limit")
    assert str(tmp_path) not in html.replace(f"gradio_api/file={tmp_path}", "")
    assert "astronaut.jpg: 1 face" in html


def test_too_many_pictures(recognizer, tmp_path) -> None:
    path = tmp_path / "small.png"
    Image.new("L", (16, 16)).save(path)
    html = show_photos(recognizer, [str(path)] * (MOST_PICTURES + 3), tmp_path)
    assert f"{MOST_PICTURES + 3} pictures are too many at once" in html
    assert html.count("<section") == MOST_PICTURES


def test_names_are_text(recognizer, astronaut_path, tmp_path) -> None:
    hostile = tmp_path / "<img src=x onerror=alert(1)>\n\n$x$.jpg"
    hostile.write_bytes(astronaut_path.read_bytes())
    html = show_photos(recognizer, [str(hostile)], tmp_path)
    assert "<img src=x" not in html
    assert "\n" not in html


def test_records_are_the_public_ones(recognizer, astronaut_path, tmp_path) -> None:
    (tmp_path / "bad.jpg").write_text("bad")
    face, bad = records_of(recognizer, [str(tmp_path / "bad.jpg"), str(astronaut_path)])
    assert face == recognizer.predict(astronaut_path).records()[0] | {"source": "astronaut.jpg"}
    assert bad["source"] == "bad.jpg"
    assert str(bad["error"]).startswith("bad.jpg: not a picture")


@pytest.mark.parametrize(("color_mode", "in_chans"), [("rgb", 3), ("gray", 1), ("gray", 3)])
def test_the_crop_shown_is_the_one_that_the_network_saw(recognizer, astronaut, color_mode, in_chans) -> None:
    contract = Contract(
        labels=("a", "b"),
        img_size=48,
        color_mode=color_mode,
        in_chans=in_chans,
        mean=(0.4,) * in_chans,
        std=(0.2,) * in_chans,
        crop="fer48-v1",
    )
    landmarks = recognizer.detect([astronaut])[0].landmarks
    crops = align_faces(astronaut, landmarks, img_size=48, crop="fer48-v1")
    seen = seen_pixels(to_input(crops, contract), contract)
    assert seen.shape == (1, 48, 48, in_chans)
    if color_mode == "rgb":
        assert np.array_equal(seen, crops)
    else:
        assert np.array_equal(seen[..., 0], seen[..., -1])


def test_small_pieces() -> None:
    assert escaped('<a href="x">\n\nb') == "&lt;a href=&quot;x&quot;&gt; b"
    assert problem("no camera") == '<p class="fer-problem" role="alert">No camera.</p>'
    table = bars({"anger": 0.25, "fear": 0.75}, "of a face")
    assert "75.0 %" in table
    assert table.count("fer-most") == 1
    assert table.index("fer-most") < table.index("fear") < table.index("75.0")
