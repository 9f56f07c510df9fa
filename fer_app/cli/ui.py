"""`fer ui`: the page for photos, webcam and videos."""

from __future__ import annotations

from typing import Annotated

import typer

from fer_app.cli.options import DeviceOption, UncertainBelowOption, refuse_unknown


def ui(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="NAME|PATH", help="A model that is offered; may be given several times."),
    ] = None,
    device: DeviceOption = "auto",
    uncertain_below: UncertainBelowOption = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Listen here; 0.0.0.0 lets the network in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="0 takes any free port.")] = 7860,
    auth: Annotated[
        str | None,
        typer.Option("--auth", metavar="USER:FILE", help="Ask for this user and the password that FILE holds."),
    ] = None,
    max_upload_mb: Annotated[
        int, typer.Option("--max-upload-mb", min=1, metavar="N", help="Refuse uploads that are larger.")
    ] = 200,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, metavar="N", help="Refuse pictures with more pixels.")
    ] = 50_000_000,
    max_video_minutes: Annotated[
        float, typer.Option("--max-video-minutes", min=0.01, metavar="N", help="Refuse videos that are longer.")
    ] = 30,
    max_viewers: Annotated[
        int, typer.Option("--max-viewers", min=1, metavar="N", help="Webcams that are read at the same time.")
    ] = 16,
    share: Annotated[
        bool,
        typer.Option("--share", help="Also open a public address through Gradio's relay: pictures leave the machine."),
    ] = False,
) -> None:
    """Open a page in the browser for photos, webcam and videos."""
    refuse_unknown(device, "auto")
    from fer_app.ui.server import serve
    from fer_app.ui.settings import Login, UiSettings

    settings = UiSettings(
        models=tuple(model or ["default"]),
        device=device,
        uncertain_below=uncertain_below,
        host=host,
        port=port,
        login=Login.read(auth) if auth else None,
        share=share,
        max_upload_mb=max_upload_mb,
        max_pixels=max_pixels,
        max_video_minutes=max_video_minutes,
        max_viewers=max_viewers,
    )
    received = serve(settings, lambda address: typer.echo(f"{address}  (Ctrl-C ends it)"))
    raise typer.Exit(128 + received if received else 0)
