"""The page as a web application, and the server that runs it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import fastapi
import uvicorn
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from fer_app.errors import InputError
from fer_app.stop_signals import StopSignals
from fer_app.ui.guard import Guard
from fer_app.ui.model_shelf import ModelShelf
from fer_app.ui.settings import UiSettings
from fer_app.ui.stop_switches import StopSwitches
from fer_app.ui.upload_folder import UploadFolder
from fer_app.ui.webcam import WebcamDesk

# Open connections of browsers are cut after so many seconds when the program ends.
_LEAVE_S = 2
_SWEEP_S = 60.0
MOST_FRAME_BYTES = 2_000_000
"""Of one webcam picture, as JPEG."""


@contextlib.contextmanager
def make_app(settings: UiSettings, switches: StopSwitches) -> Iterator[ASGIApp]:
    """Give the whole page; what people sent is deleted when the block ends.

    Args:
        settings: who may reach it and what they may send.
        switches: what stops videos.

    Raises:
        InputError: a setting that means nothing.
        ModelError: a classifier cannot be used.
    """
    with UploadFolder() as uploads:
        shelf = ModelShelf(
            settings.models,
            device=settings.device,
            max_pixels=settings.max_pixels,
            uncertain_below=settings.uncertain_below,
        )
        _quiet_gradio(uploads)
        import gradio as gr

        from fer_app.ui.blocks import make_blocks, theme
        from fer_app.ui.photo_tab import ASSETS

        app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=_sweeping(uploads))
        desk = WebcamDesk(shelf, settings.max_viewers, lambda visitor: _may_enter(app, visitor))
        app.add_api_websocket_route("/fer/webcam", desk.serve)
        app.mount("/fer", StaticFiles(directory=ASSETS))
        login = settings.login
        blocks = make_blocks(shelf, settings, uploads, switches)
        # Otherwise Gradio reads whatever file a request names; `Guard` would still refuse it.
        blocks.has_launched = True
        gr.mount_gradio_app(
            app,
            blocks,
            path="/",
            auth=None if login is None else (login.user, login.password),
            auth_message="This page asks for a user and a password.",
            blocked_paths=[],
            max_file_size=settings.max_upload_bytes,
            show_error=False,
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            run_history=False,
            footer_links=[],
            theme=theme(),
        )
        yield Guard(app, settings, uploads)


def _may_enter(app: fastapi.FastAPI, visitor: fastapi.WebSocket) -> bool:
    """Tell whether somebody has logged in, where that is asked for: Gradio keeps the list."""
    from gradio.routes import App

    page = next(route.app for route in app.routes if isinstance(route, Mount) and isinstance(route.app, App))
    if page.auth is None:
        return True
    cookies = [visitor.cookies.get(f"access-token-{kind}{page.cookie_id}", "") for kind in ("", "unsecure-")]
    return any(page.tokens.get(cookie) for cookie in cookies)


def _quiet_gradio(uploads: UploadFolder) -> None:
    """Set what Gradio reads from the environment, before it is imported: it reports to nobody and keeps files here."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads.root)
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(uploads.root / "examples")


def _sweeping(uploads: UploadFolder) -> Callable[[fastapi.FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    """Delete old uploads every minute while the application runs."""

    async def sweep() -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            await asyncio.to_thread(uploads.sweep)

    @contextlib.asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        task = asyncio.create_task(sweep())
        try:
            yield
        finally:
            task.cancel()

    return lifespan


def serve(settings: UiSettings, tell: Callable[[str], None]) -> int:
    """Serve the page until a signal ends the program.

    Args:
        settings: who may reach it and what they may send.
        tell: gets the address when the page can be opened.

    Returns:
        The signal's number; 0 when the server ended by itself.

    Raises:
        InputError: the address is taken, or not one of this machine; no public address could be opened.
        ModelError: a classifier cannot be used.
    """
    switches = StopSwitches()
    with (
        StopSignals() as signals,
        contextlib.closing(_listening(settings)) as listening,
        make_app(settings, switches) as app,
    ):
        config = uvicorn.Config(
            app,
            log_level="error",
            ws="websockets-sansio",
            ws_max_size=MOST_FRAME_BYTES,
            ws_per_message_deflate=False,  # pictures are compressed already
            timeout_graceful_shutdown=_LEAVE_S,
            server_header=False,
            lifespan="on",
        )
        server = uvicorn.Server(config)
        # In a thread: in the main one it would take the signals, and end the program before the uploads are deleted.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            told = False
            while thread.is_alive() and signals.received is None:
                if server.started and not told:
                    told = True
                    tell(_address(listening))
                    if settings.share:
                        tell(_public_address(listening))
                thread.join(0.1)
        finally:
            switches.press_all()  # a video that goes on would keep its files, and the program
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # that connections are cut is no news
            server.should_exit = True
            thread.join()
    return signals.received or 0


def _public_address(listening: socket.socket) -> str:
    """Open a public address through Gradio's relay.

    Raises:
        InputError: that failed.
    """
    from gradio.networking import setup_tunnel

    host, port = listening.getsockname()[:2]
    try:
        return setup_tunnel(host, port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # of the network, of the relay, of the program that Gradio fetches for it
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"--share: the public address could not be opened: {reason}") from error


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _listening(settings: UiSettings) -> socket.socket:
    """Take the address.

    Raises:
        InputError: it is taken, or not one of this machine.
    """
    taken: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere this would let two programs share the address
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(128)
    except OSError as error:
        if taken is not None:
            taken.close()
        raise InputError(
            f"cannot listen on {settings.host}, port {settings.port}: {error.strerror}; "
            "choose others with --host and --port"
        ) from error
    return taken
