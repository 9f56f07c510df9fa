"""What stands before Gradio: which addresses exist, who may ask, how much may be sent, and what the browser may load.

Gradio serves much that this page has no use for, among it fetching addresses for the visitor. Only what is listed here
is reachable; paths that come from outside must lead into the upload folder.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fer_app.ui.page import cleaned
from fer_app.ui.settings import LOOPBACK, UiSettings
from fer_app.ui.upload_folder import UploadFolder

_ROUTES = re.compile(
    r"/|/(assets|static|fer)/.+|/(config|login|logout|theme\.css|favicon\.ico)/?|"
    r"/gradio_api/(info|upload|upload_progress|queue/join|queue/data|cancel|reset|startup-events|app_id|login_check|"
    r"theme\.css|heartbeat/\w+|call/(predict|annotate)(/\w+)?|file=.+)/?"
)
_FILE = "/gradio_api/file="
_UPLOAD = "/gradio_api/upload"
# What is not an upload is a short JSON text.
_MOST_JSON_BYTES = 1_000_000
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}

# What somebody sent may be opened by itself, and must not act as a page of this program.
_OF_FILES = {"Content-Security-Policy": "default-src 'self'; script-src 'none'; frame-ancestors 'none'"}


class Guard:
    """An ASGI application that lets through to another one what the page needs."""

    def __init__(self, app: ASGIApp, settings: UiSettings, uploads: UploadFolder) -> None:
        """Remember what is guarded.

        Args:
            app: the page.
            settings: who may ask, and how much may be sent.
            uploads: where files may be read.
        """
        self._app, self._settings, self._uploads = app, settings, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        is_upload = scope["path"].rstrip("/") == _UPLOAD
        length = Headers(scope=scope).get("content-length", "")
        if is_upload and not length.isdecimal():
            await _refuse(scope, receive, send, 411, "An upload says how long it is.")
            return
        limit = self._settings.max_upload_bytes if is_upload else _MOST_JSON_BYTES
        body = b""
        if scope["method"] == "POST" and not is_upload:
            body = await _whole_body(receive, limit)
            receive = _given(body, receive)
        if len(body) > limit or (length.isdecimal() and int(length) > limit):
            await _refuse(scope, receive, send, 413, f"This is more than the limit of {limit / 1e6:.0f} MB.")
        elif body and not scope["path"].startswith("/login") and not self._paths_are_ours(body):
            await _refuse(scope, receive, send, 403, "A file that was not uploaded here is not read.")
        elif scope["path"] == "/":
            await self._page(scope, receive, send)
        else:
            more = _ALWAYS | (_OF_FILES if scope["path"].startswith(_FILE) else {})
            with contextlib.suppress(ClientDisconnect):  # it left while it sent something
                await self._app(scope, receive, _with_headers(send, more))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._settings.is_private and _name_of(host) not in LOOPBACK:
            # Another site's name that leads to this machine (DNS rebinding).
            return 421, "This page is served to this machine alone; open it under the address that was printed."
        origin = headers.get("origin")
        if origin and urlsplit(origin).netloc != host:
            return 403, "Another page may not use this one."
        path = scope["path"]
        if not _ROUTES.fullmatch(path):
            return 404, "There is nothing at this address."
        if path.startswith(_FILE) and not self._uploads.contains(unquote(path.removeprefix(_FILE))):
            return 403, "This file was not made here."
        return None

    def _paths_are_ours(self, body: bytes) -> bool:
        """Tell whether every file that a JSON text names was uploaded, and whether it is JSON at all."""
        named: list[Any] = []

        def note(pairs: list[tuple[str, Any]]) -> None:
            # All of them: of a name that comes twice, another reader may take the first.
            named.extend(value for key, value in pairs if key == "path")

        try:
            json.loads(body, object_pairs_hook=note)
        except (ValueError, RecursionError):
            return False
        return all(isinstance(path, str) and self._uploads.contains(path) for path in named)

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the page without what it would load from elsewhere, and with a policy that forbids such loading."""
        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        nonce = secrets.token_urlsafe(16)
        start: Message = {}
        parts: list[bytes] = []

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            html = cleaned(b"".join(parts).decode("utf-8"), nonce).encode("utf-8")
            headers = MutableHeaders(raw=list(start["headers"]))
            headers["Content-Length"] = str(len(html))
            headers["Cache-Control"] = "no-store"
            headers.update(_ALWAYS | {"Content-Security-Policy": policy(nonce)})
            await send({**start, "headers": headers.raw})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else html})

        await self._app({**scope, "headers": plain}, receive, collect)


def policy(nonce: str) -> str:
    """Give the page's Content-Security-Policy: nothing from elsewhere, no scripts but those that carry the nonce.

    Gradio writes style attributes and elements; scripts it loads are modules of its own origin.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src 'self' 'nonce-{nonce}'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "media-src 'self' blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "worker-src 'self' blob:",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        ]
    )


def _name_of(host: str) -> str:
    """Return a Host header without its port."""
    return urlsplit(f"//{host}").hostname or ""


async def _whole_body(receive: Receive, limit: int) -> bytes:
    """Read the body; of a larger one only so much that this shows."""
    body = b""
    while len(body) <= limit:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body


def _given(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read already, then what else comes."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _with_headers(send: Send, more: dict[str, str]) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(more)
        await send(message)

    return add


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})  # before it is accepted: a 403
        return
    await PlainTextResponse(sentence, status, headers=_ALWAYS)(scope, receive, send)
