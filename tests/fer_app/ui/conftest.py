"""A page that is really served, and a real browser that is offline but for it."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
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


class Guarded(NamedTuple):
    """A page with a login and narrow limits.

    Attributes:
        address: of the page.
        cookie: of somebody who has logged in.
        password: of the user `ali`.
    """

    address: str
    cookie: str
    password: str


@pytest.fixture(scope="session")
def guarded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A page that takes 1 MB, one webcam, and who knows the password."""
    file = tmp_path_factory.mktemp("login") / "password"
    file.write_text("sesame\n")
    limits = ("--max-upload-mb", "1", "--max-viewers", "1", "--auth", f"ali:{file}")
    with serving("--model", str(tiny_model), *limits) as address:
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/login", "username=ali&password=sesame", form)
        answer = connection.getresponse()
        assert answer.status == 200
        cookies = answer.headers.get_all("Set-Cookie") or []
        answer.read()
        cookie = "; ".join(cookie.split(";")[0] for cookie in cookies)
        part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\nx\r\n--b--\r\n'
        kind = {"Content-Type": "multipart/form-data; boundary=b", "Cookie": cookie}
        connection.request("POST", "/gradio_api/upload", part, kind)
        sent = Path(json.loads(connection.getresponse().read())[0])
        connection.close()
        assert sent.is_file()
        yield Guarded(address, cookie, "sesame")
    assert not sent.parents[1].exists()  # what people sent goes when the program ends


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
def opened(browser: Any, address: str, login: str | None = None, **options: Any) -> Iterator[Any]:
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
    if login is not None:
        page.get_by_label("username").fill("ali")
        page.get_by_label("password").fill(login)
        page.get_by_role("button", name="Login").click()
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
