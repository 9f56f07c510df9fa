"""A page that is really served, and a real browser that is offline but for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.fer_app.video.browser import CHROMIUM

FER = [sys.executable, "-c", "from fer_app.cli import main; main()"]


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Run `fer ui` on a free port; gives the address."""
    command = [*FER, "ui", "--port", "0", "--device", "cpu", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            assert line.startswith("http://"), process.stderr and process.stderr.read()
            yield line.split()[0]
        finally:
            process.terminate()
            assert process.wait(30) == 128 + 15
            assert process.stderr is not None
            assert process.stderr.read() == ""


@pytest.fixture(scope="session")
def served(tiny_model: Path) -> Iterator[str]:
    """The address of a page with the bundled model and one of known answers."""
    with serving("--model", "default", "--model", str(tiny_model)) as address:
        yield address


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Start a browser with a fake camera: `chromium()`, or `chromium(clip)` for one that films a clip."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        started: dict[str, Any] = {}

        def start(camera: Path | None = None) -> Any:
            options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
            if camera is not None:
                options += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
                options.append(f"--use-file-for-fake-video-capture={camera}")
            if str(camera) not in started:
                started[str(camera)] = driver.chromium.launch(executable_path=CHROMIUM, args=options)
            return started[str(camera)]

        yield start
        for browser in started.values():
            browser.close()


@contextmanager
def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """Open the page in a browser that reaches nothing else; in the end nothing may have gone wrong in it."""
    context = browser.new_context(**options)
    host = urlsplit(address).netloc
    problems: list[str] = []
    elsewhere: list[str] = []

    def refuse(route: Any) -> None:
        elsewhere.append(route.request.url)
        route.abort()

    def ours(url: str) -> bool:
        return urlsplit(url).netloc == host or url.startswith(("data:", "blob:"))

    context.route(lambda url: not ours(url), refuse)
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on(
        "response", lambda answer: problems.append(f"{answer.status} {answer.url}") if answer.status > 399 else None
    )
    page.set_default_timeout(20_000)
    page.goto(address)
    page.get_by_role("heading", level=1).wait_for()
    try:
        yield page
    finally:
        context.close()
    assert elsewhere == []
    assert problems == []


@pytest.fixture
def open_page(chromium: Callable[..., Any], served: str) -> Callable[..., AbstractContextManager[Any]]:
    """Open the served page: `with open_page() as page`; options are those of Playwright's contexts."""

    def start(camera: Path | None = None, **options: Any) -> AbstractContextManager[Any]:
        return opened(chromium(camera), served, **options)

    return start
