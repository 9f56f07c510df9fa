from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from fer_app import Recognizer
from fer_app.ui.compare import MOST_COMPARED, agreement, show_comparison


@pytest.fixture(scope="module")
def recognizers(tiny_model):
    return [Recognizer(model, device="cpu") for model in (tiny_model, "default")]


def test_both_labels_of_every_face_are_shown(recognizers, astronaut, tmp_path) -> None:
    red = astronaut.copy()
    red[..., 1:] //= 4  # anger to the first, whose answers are known
    Image.fromarray(np.concatenate([astronaut, red], axis=1)).save(tmp_path / "two.png")
    html = show_comparison(recognizers, ["a", "b"], [str(tmp_path / "two.png")], tmp_path)
    ours = [one.predict(tmp_path / "two.png") for one in recognizers]
    same, total = agreement([tuple(ours)])
    assert total == 2
    assert f"The same label for {same} of 2 faces" in html
    assert html.count("differs") == 2 - same > 0
    assert html.count("<figure>") == 2
    assert len(list(tmp_path.glob("*.jpg"))) == 2
    rows = re.findall(r"<tr><th.*?</tr>", html.partition("<tbody>")[2])
    for i, row in enumerate(rows):
        for faces in ours:
            assert f"{faces.label(i)} {100 * faces.probs[i].max():.0f} %" in row


def test_a_model_agrees_with_itself(recognizers, astronaut_path, tmp_path) -> None:
    html = show_comparison([recognizers[1]] * 2, ["a", "a"], [str(astronaut_path)], tmp_path)
    assert "The same label for 1 of 1 faces (100%)" in html


def test_one_model_is_uncertain(tiny_model, recognizers, astronaut_path, tmp_path) -> None:
    doubting = Recognizer(tiny_model, device="cpu", uncertain_below=1.0)
    html = show_comparison([doubting, recognizers[1]], ["a", "b"], [str(astronaut_path)], tmp_path)
    first, other = re.findall(r"<td>(.*?)</td>", html.partition("<tbody>")[2])[1:3]
    assert re.fullmatch(r"uncertain, \w+ \d+ % or \w+ \d+ %", first)
    assert "uncertain" not in other


def test_nothing_nobody_and_no_picture(recognizers, tmp_path) -> None:
    assert "will be shown here" in show_comparison(recognizers, ["a", "b"], [], tmp_path)
    Image.new("L", (50, 50)).save(tmp_path / "wall.png")
    (tmp_path / "bad.png").write_text("bad")
    paths = [str(tmp_path / "bad.png"), *[str(tmp_path / "wall.png")] * MOST_COMPARED]
    html = show_comparison(recognizers, ["a", "b"], paths, tmp_path)
    assert "No face was found." in html
    assert "Bad.png: not a picture" in html
    assert f"{MOST_COMPARED + 1} pictures are too many at once" in html
    assert html.count('class="fer-pair"') < MOST_COMPARED


def test_a_folder_in_a_browser(open_page, astronaut_path, tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "folder" / name).write_bytes(astronaut_path.read_bytes())
    (tmp_path / "folder" / "notes.txt").write_text("no picture")
    with open_page() as page:
        page.get_by_role("tab", name="Compare").click()
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Choose a folder").click()
        chooser.value.set_files(tmp_path / "folder")
        page.get_by_text("of 2 faces").wait_for()
        assert page.locator("#fer-compare-result tbody tr").count() == 2
        drawn = page.locator("#fer-compare-result img").first.get_attribute("src")
        page.get_by_role("button", name="Compare", exact=True).click()  # the folder once more
        page.wait_for_function(
            "old => document.querySelector('#fer-compare-result img')?.getAttribute('src') != old", arg=drawn
        )
        assert page.locator("#fer-compare-result tbody tr").count() == 2
        assert page.get_by_role("alert").inner_text().startswith("Notes.txt: not a picture")


def test_a_picture_that_was_taken_out_is_not_compared_again(open_page, astronaut_path) -> None:
    with open_page() as page:
        page.get_by_role("tab", name="Compare").click()
        page.locator("#fer-compare-files input[type=file]").set_input_files(str(astronaut_path))
        page.get_by_text("of 1 faces").wait_for()
        page.locator("#fer-compare-files").get_by_label("Clear").click()
        page.locator("#fer-compare-files input[type=file]").wait_for(state="attached")
        page.wait_for_timeout(500)
        page.get_by_role("button", name="Compare", exact=True).click()
        page.get_by_text("Both results will be shown here").wait_for()
