"""What the served page refuses, asked without a browser: whatever a client writes arrives as it is."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from tests.fer_app.ui.conftest import Guarded


def ask(
    address: str, method: str, path: str, body: bytes | str | Iterator[bytes] | None = None, **headers: str
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named, encode_chunked="Transfer-Encoding" in named)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


def upload(address: str, content: bytes, name: str = "a.jpg") -> tuple[int, str]:
    lines = b'--b\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n' % name.encode()
    body = lines + content + b"\r\n--b--\r\n"
    return ask(address, "POST", "/gradio_api/upload", body, Content_Type="multipart/form-data; boundary=b")


@pytest.fixture(scope="module")
def uploaded(served: str) -> str:
    """A file that was sent."""
    status, text = upload(served, b"\xff\xd8\xffpicture")
    assert status == 200
    return str(json.loads(text)[0])


def test_the_page_comes_with_a_policy(served: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(served).netloc)
    connection.request("GET", "/", headers={"Accept-Encoding": "br"})
    answer = connection.getresponse()
    html = answer.read().decode()
    connection.close()
    assert "script-src 'self' 'nonce-" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "og:image" not in html


def test_only_what_was_sent_can_be_read(served: str, uploaded: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    link = Path(uploaded).with_name("link.txt")
    link.symlink_to(secret)
    status, text = ask(served, "GET", f"/gradio_api/file={quote(uploaded)}")
    assert (status, text.endswith("picture")) == (200, True)
    for path in (
        str(secret),
        str(link),
        "/etc/passwd",
        f"{uploaded}/../../../../../etc/passwd",
        f"{Path(uploaded).parent}/..%2f..%2f..%2fetc/passwd",
        "../../etc/passwd",
        f"file://{secret}",
        "http://localhost:1/a.jpg",
        "https://example.org/a.jpg",
        str(Path(os.__file__)),
    ):
        status, text = ask(served, "GET", f"/gradio_api/file={quote(path, safe='/%:')}")
        assert status in (403, 404), path
        assert "secret" not in text.replace("secret.txt", "")


def test_a_page_that_was_sent_is_no_page_of_ours(served: str) -> None:
    status, text = upload(served, b"<script>alert(1)</script>", "page.html")
    assert status == 200
    connection = http.client.HTTPConnection(urlsplit(served).netloc)
    connection.request("GET", f"/gradio_api/file={quote(json.loads(text)[0])}")
    answer = connection.getresponse()
    assert answer.read() == b"<script>alert(1)</script>"
    connection.close()
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert "script-src 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=https://example.org/a",
        "/gradio_api/run-history/buckets",
        "/gradio_api/vibe-code",
        "/gradio_api/openapi.json",
        "/gradio_api/component_server",
        "/gradio_api/process_recording",
        "/gradio_api/deep_link",
        "/gradio_api/stream/a/b/1/playlist-file",
        "/gradio_api/call/lambda",
        "/gradio_api/file/etc/passwd",
        "/monitoring",
        "/manifest.json",
        "/docs",
        "/fer/../settings.py",
        "/assets/../../../__init__.py",
        "/fer/%2e%2e/settings.py",
    ],
)
def test_what_the_page_does_not_need_is_not_there(served: str, path: str) -> None:
    for method in ("GET", "POST"):
        status, _ = ask(served, method, path, b"{}" if method == "POST" else None)
        assert status in (403, 404, 405), (method, path)


@pytest.mark.parametrize("named", ["/etc/passwd", "https://example.org/a.jpg", "{upload}/../../../../etc/passwd", 5])
def test_a_call_cannot_name_another_file(served: str, uploaded: str, named: object) -> None:
    if isinstance(named, str):
        named = named.replace("{upload}", uploaded)
    body = json.dumps({"data": [[{"path": named, "meta": {"_type": "gradio.FileData"}}], "tiny"]})
    for path in ("/gradio_api/call/predict", "/gradio_api/queue/join"):
        status, text = ask(served, "POST", path, body, Content_Type="application/json")
        assert (status, text) == (403, "A file that was not uploaded here is not read.")


@pytest.mark.parametrize(
    "body",
    [
        '{"data": [{"path": "/etc/passwd", "path": "{upload}"}]}',
        '{"data": [{"path": "{upload}", "path": "/etc/passwd"}]}',
        '{"data": [{"path": "/etc/passwd"},]}',
        "[" * 100_000,
        "data=1",
    ],
)
def test_a_call_that_can_be_read_in_two_ways_is_refused(served: str, uploaded: str, body: str) -> None:
    body = body.replace("{upload}", uploaded)
    assert ask(served, "POST", "/gradio_api/queue/join", body, Content_Type="application/json")[0] == 403


def test_other_sites_may_not_ask(served: str) -> None:
    host = urlsplit(served).netloc
    assert ask(served, "GET", "/", Origin=f"http://{host}")[0] == 200
    assert ask(served, "GET", "/", Origin="http://evil.example")[0] == 403
    assert ask(served, "GET", "/", Host="evil.example")[0] == 421
    assert ask(served, "GET", "/", Host=f"localhost:{urlsplit(served).port}")[0] == 200


def test_long_texts_are_refused(served: str) -> None:
    body = json.dumps({"data": ["x" * 1_100_000]})
    assert ask(served, "POST", "/gradio_api/queue/join", body)[0] == 413
    assert ask(served, "POST", "/gradio_api/queue/join", iter([body.encode()]), Transfer_Encoding="chunked")[0] == 413


FORM = {"Content_Type": "application/x-www-form-urlencoded"}


def test_who_has_not_logged_in_gets_nothing(guarded: Guarded) -> None:
    address = guarded.address
    assert "tiny" not in ask(address, "GET", "/")[1]
    assert upload(address, b"x")[0] == 401
    for path in ("/config", "/gradio_api/info", "/gradio_api/file=/tmp"):
        assert ask(address, "GET", path)[0] in (401, 403)
    assert ask(address, "POST", "/gradio_api/call/predict", "{}", Content_Type="application/json")[0] == 401
    assert ask(address, "POST", "/login", "username=ali&password=wrong", **FORM)[0] == 400
    assert ask(address, "POST", "/login", "username=ali&password=", **FORM)[0] in (400, 422)
    assert "tiny" in ask(address, "GET", "/", Cookie=guarded.cookie)[1]


def test_uploads_have_a_limit(guarded: Guarded) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
    bodies = [head + b"x" * size + b"\r\n--b--\r\n" for size in (900_000, 1_000_001)]
    kind = {"Content_Type": "multipart/form-data; boundary=b", "Cookie": guarded.cookie}
    status, sent = ask(guarded.address, "POST", "/gradio_api/upload", bodies[0], **kind)
    assert status == 200
    assert Path(json.loads(sent)[0]).stat().st_size == 900_000
    assert ask(guarded.address, "POST", "/gradio_api/upload", bodies[1], **kind)[0] == 413
    chunks = {"body": iter([bodies[0]]), "Transfer_Encoding": "chunked", **kind}
    assert ask(guarded.address, "POST", "/gradio_api/upload", **chunks)[0] == 411
    kept = [path.stat().st_size for path in Path(json.loads(sent)[0]).parents[1].rglob("*") if path.is_file()]
    assert max(kept) == 900_000
