"""The tab for the webcam in a real browser whose camera films a clip."""

from __future__ import annotations

import re
import time

import pytest
from tests.fer_app.ui.camera import film_portrait
from tests.fer_app.ui.conftest import opened, serving


@pytest.fixture(scope="session")
def portrait_clip(astronaut_path, tmp_path_factory):
    return film_portrait(astronaut_path, tmp_path_factory.mktemp("camera") / "portrait.mjpeg")


def start(page) -> None:
    page.get_by_role("tab", name="Webcam").click()
    page.get_by_role("button", name="Start").click()


def wait_for_pictures(page, count: int, timeout_s: float = 30) -> dict[str, str]:
    """Wait until so many pictures were read; gives what the page says of them."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:  # not `wait_for_function`, which the page's policy forbids
        told = dict(page.evaluate("({...document.getElementById('fer-status').dataset})"))
        if int(told.get("pictures", 0)) > count:
            return told
        page.wait_for_timeout(50)
    pytest.fail(f"not more than {count} pictures were read: {told}")


def drawn_pixels(page, canvas: str) -> int:
    """How many pixels of a canvas are not transparent."""
    return int(
        page.evaluate(
            """(id) => {
              const canvas = document.getElementById(id);
              const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
              return data.filter((value, index) => index % 4 === 3 && value > 0).length;
            }""",
            canvas,
        )
    )


def test_live_labels_rate_and_latency(open_page, portrait_clip) -> None:
    with open_page(portrait_clip) as page:
        start(page)
        told = wait_for_pictures(page, 20)
        assert page.locator("#fer-live-label").inner_text() == "happiness"
        assert float(told["fps"]) > 1
        assert 0 < float(told["latency"]) < 3000
        assert "pictures a second" in page.locator("#fer-status").inner_text()
        assert "640 x 480 px" in page.locator("#fer-status").inner_text()
        assert drawn_pixels(page, "fer-overlay") > 500
        assert drawn_pixels(page, "fer-rolling") > 500
        assert page.locator("#fer-live-bars tbody tr").count() == 8
        # Settings may change while it runs.
        page.get_by_label("Search for faces").select_option("1")
        page.get_by_label("Mirror").uncheck()
        page.get_by_label("Smoothing").fill("1.5")
        assert page.locator("#fer-smooth-value").inner_text() == "1.5 s"
        before = int(wait_for_pictures(page, 20)["pictures"])
        wait_for_pictures(page, before + 5)
        assert "fer-mirrored" not in (page.locator("#fer-camera").get_attribute("class") or "")
        page.get_by_role("button", name="Stop").click()
        assert page.locator("#fer-status").inner_text() == "Stopped."
        assert page.evaluate("document.getElementById('fer-camera').srcObject") is None
        assert drawn_pixels(page, "fer-overlay") == 0
        page.get_by_role("button", name="Start").click()
        wait_for_pictures(page, before + 10)


def test_two_browsers_at_once(open_page, portrait_clip) -> None:
    with open_page(portrait_clip) as one, open_page(portrait_clip) as other:
        for page in (one, other):
            start(page)
        for page in (one, other):
            wait_for_pictures(page, 5)
            assert page.locator("#fer-live-label").inner_text() == "happiness"


def test_an_uncertain_face_has_two_candidates(chromium, portrait_clip) -> None:
    with serving("--uncertain-below", "1") as address, opened(chromium(portrait_clip), address) as page:
        start(page)
        wait_for_pictures(page, 5)
        said = page.locator("#fer-live-label").inner_text()
        assert re.fullmatch(r"happiness\? / (neutral|surprise)\?", said)


def test_who_has_logged_in_may_use_the_webcam(chromium, guarded, portrait_clip) -> None:
    with opened(chromium(portrait_clip), guarded.address, login=guarded.password) as page:
        start(page)
        wait_for_pictures(page, 3)


def test_a_refused_camera_is_a_sentence(open_page) -> None:
    with open_page() as page:  # a browser that may use none
        start(page)
        page.get_by_role("alert").wait_for()
        assert page.get_by_role("alert").inner_text().startswith(("The camera was refused", "No camera was found"))
        assert page.get_by_role("button", name="Start").is_enabled()
