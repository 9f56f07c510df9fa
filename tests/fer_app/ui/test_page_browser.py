"""The page as a whole in a real browser: readable by everybody, light and dark, on a phone, and steady."""

from __future__ import annotations

import time

import pytest

TABS = ("Photo", "Webcam", "Video", "Compare")
WIDEST = """() => {
  const width = document.documentElement.clientWidth;
  return [...document.querySelectorAll("body *")]
    .filter((one) => one.checkVisibility() && !one.closest(".fer-table, .fer-gallery"))
    .filter((one) => one.getBoundingClientRect().right > width + 1)
    .map((one) => `${one.tagName}.${one.className}`);
}"""
# How far things moved without anybody's doing, as browsers measure it (web.dev/cls; 0.1 is good).
SHIFTS = """() => {
  window.shifted = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
  }).observe({type: "layout-shift", buffered: true});
}"""


def read_example(page) -> None:
    page.get_by_role("button", name="Try the example").click()
    page.locator(".fer-face").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page, scheme) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with open_page(color_scheme=scheme, reduced_motion="reduce") as page:
        read_example(page)
        for tab in TABS:
            page.get_by_role("tab", name=tab).click()
            if tab == "Video":
                page.get_by_role("button", name="Options").click()
            page.wait_for_timeout(300)  # until colours have faded
            found = axe.run(page).response
            serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
            assert [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in serious] == [], tab
            assert len(found["passes"]) > 10


def test_a_phone_shows_everything_without_scrolling_sideways(open_page) -> None:
    with open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as page:
        read_example(page)
        for tab in TABS:
            here = page.get_by_role("tab", name=tab)
            if not here.is_visible():
                page.locator(".overflow-menu button").first.click()
                here = page.get_by_role("button", name=tab, exact=True)
            here.click()
            page.wait_for_timeout(100)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
            assert page.evaluate(WIDEST) == [], tab
        page.get_by_role("tab", name="Photo").click()
        boxes = [page.locator(name).bounding_box() for name in (".fer-picture", ".fer-face")]
        assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]
        assert boxes[0]["width"] > 300


def test_light_and_dark_can_be_switched_and_are_remembered(open_page) -> None:
    def brightness(page) -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(float, colour.partition("(")[2].rstrip(")").split(",")[:3])) / 3

    with open_page(color_scheme="dark") as page:
        assert brightness(page) < 60
        page.get_by_role("button", name="Light or dark").click()
        assert brightness(page) > 200
        page.reload()
        page.get_by_role("heading", level=1).wait_for()
        until = time.monotonic() + 5
        while brightness(page) < 200 and time.monotonic() < until:
            page.wait_for_timeout(50)
        assert brightness(page) > 200


def test_everything_can_be_reached_with_the_keyboard(open_page) -> None:
    with open_page() as page:
        read_example(page)
        page.locator("body").focus()
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            told = page.evaluate(
                """() => {
                  const one = document.activeElement;
                  const name = one.innerText || one.getAttribute("aria-label") || one.tagName;
                  return [name, one === document.body ? "" : getComputedStyle(one).outlineStyle];
                }"""
            )
            reached.add(told[0].strip())
            assert told[1] != "none", told[0]  # where one is can be seen
        for name in ("Light or dark", "Photo", "Read the faces", "Try the example", "Drawn picture", "JSON", "CSV"):
            assert name in reached
        assert any(name.startswith("Face 1: ") for name in reached)


def test_nothing_jumps_while_results_load(open_page) -> None:
    with open_page() as page:
        page.wait_for_timeout(500)
        page.evaluate(SHIFTS)
        before = page.evaluate("window.shifted")
        read_example(page)
        page.wait_for_timeout(700)
        assert page.evaluate("window.shifted") - before < 0.1


def test_the_notice_and_the_card(open_page) -> None:
    with open_page() as page:
        note = page.get_by_role("note")
        assert "The expression shown, not the emotion felt." in note.inner_text()
        assert "nothing leaves it" in note.inner_text()
        note.get_by_text("What it can and cannot tell").click()
        assert "disgust, contempt and fear" in note.inner_text()
        page.locator(".fer-model-card summary").click()
        card = page.locator(".fer-model-card").inner_text()
        for title in ("Accuracy", "Licence", "Date"):
            assert title in card
