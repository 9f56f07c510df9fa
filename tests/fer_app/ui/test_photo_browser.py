"""The tab for photos in a real browser, offline but for the page."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

FILES = "#fer-photo-files input[type=file]"


@pytest.fixture
def two_faces(tmp_path, astronaut):
    path = tmp_path / "two.png"
    Image.fromarray(np.concatenate([astronaut, astronaut[:, ::-1]], axis=1)).save(path)
    return path


def test_faces_can_be_chosen_with_mouse_and_keyboard(open_page, two_faces) -> None:
    with open_page() as page:
        page.set_input_files(FILES, two_faces)
        boxes = page.locator(".fer-box")
        boxes.nth(1).wait_for()
        shown = page.locator(".fer-face:visible")
        assert shown.get_by_role("heading").inner_text().startswith("Face 1: happiness")
        boxes.nth(1).click()
        assert shown.get_by_role("heading").inner_text().startswith("Face 2: ")
        assert boxes.nth(1).get_attribute("aria-pressed") == "true"
        boxes.nth(0).focus()
        page.keyboard.press("Enter")
        assert shown.get_by_role("heading").inner_text().startswith("Face 1: ")
        assert shown.get_by_role("row").count() == 8
        assert page.locator(".fer-picture img").evaluate("image => image.naturalWidth") == 1024
        with page.expect_download() as download:
            page.get_by_role("link", name="JSON").click()
        records = json.loads(download.value.path().read_text())
        assert [record["label"] for record in records] == ["happiness"] * 2


def test_example_no_face_and_no_picture(open_page, tmp_path) -> None:
    Image.new("RGB", (300, 200), "gray").save(tmp_path / "wall.png")
    (tmp_path / "broken.jpg").write_text("this is no picture")
    with open_page() as page:
        page.get_by_role("button", name="Try the example").click()
        page.get_by_text("astronaut.jpg: 1 face").wait_for()
        page.set_input_files(FILES, [tmp_path / "wall.png", tmp_path / "broken.jpg"])
        page.get_by_text("No face was found in this picture.").wait_for()
        assert page.get_by_role("alert").inner_text().startswith("Broken.jpg: not a picture")
        assert "Traceback" not in page.content()


def test_a_picture_can_be_pasted(open_page) -> None:
    with open_page() as page:
        page.locator(FILES).wait_for(state="attached")
        page.evaluate(
            """async () => {
              const blob = await (await fetch("./fer/astronaut.jpg")).blob();
              const transfer = new DataTransfer();
              transfer.items.add(new File([blob], "pasted.jpg", {type: "image/jpeg"}));
              document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: transfer, cancelable: true}));
            }"""
        )
        page.get_by_text("pasted.jpg: 1 face").wait_for()


def test_another_model_gives_its_own_labels(open_page) -> None:
    with open_page() as page:
        page.get_by_role("button", name="Try the example").click()
        page.get_by_role("heading", name="Face 1: happiness").wait_for()
        page.get_by_text("(fast, default).").wait_for()  # read by the bundled model, which is told
        page.locator("#fer-model input").click()
        page.get_by_role("option", name="tiny").click()
        page.get_by_text("Date").wait_for(state="hidden")
        page.get_by_role("button", name="Try the example").click()
        page.get_by_role("heading", name="Face 1: happiness").wait_for(state="hidden")
        page.locator(".fer-face h2").first.wait_for()
        page.get_by_text("Read by tiny.").wait_for()
