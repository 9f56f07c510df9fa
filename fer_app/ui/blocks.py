"""The page as Gradio's blocks: what is where, and what happens on a click."""

from __future__ import annotations

import gradio as gr

from fer_app.errors import FerError
from fer_app.ui.api import add_api
from fer_app.ui.compare_tab import compare_tab
from fer_app.ui.html import definitions, escaped, problem
from fer_app.ui.html_block import html_block
from fer_app.ui.model_shelf import ModelShelf
from fer_app.ui.notice import notice
from fer_app.ui.photo_tab import photo_tab
from fer_app.ui.settings import UiSettings
from fer_app.ui.stop_switches import StopSwitches
from fer_app.ui.upload_folder import UploadFolder
from fer_app.ui.video_tab import video_tab
from fer_app.ui.webcam_tab import webcam_tab

TITLE = "fer: facial expressions"
# What the system brings; nothing is fetched.
_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_FONT_MONO = ("ui-monospace", "Consolas", "DejaVu Sans Mono", "monospace")


def theme() -> gr.themes.Base:
    """Return the page's theme."""
    default = gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=_FONT, font_mono=_FONT_MONO)
    # Gradio's own are too pale to read (WCAG asks for a contrast of 4.5).
    return default.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
    )


def make_blocks(shelf: ModelShelf, settings: UiSettings, uploads: UploadFolder, switches: StopSwitches) -> gr.Blocks:
    """Put the page together.

    Args:
        shelf: the classifiers.
        settings: what is allowed.
        uploads: where files go.
        switches: what stops videos.
    """
    blocks: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        html_block(_heading(settings))
        with gr.Row(equal_height=False):
            model = gr.Dropdown(
                [(shelf.title(name), name) for name in shelf.names],
                value=shelf.names[0],
                label="Model",
                filterable=False,
                elem_id="fer-model",
                min_width=300,
            )
            with gr.Column(min_width=300):
                card = html_block(_card(shelf, shelf.names[0]))
        model.change(
            lambda name: _card(shelf, name),
            model,
            card,
            api_visibility="private",
            show_progress="hidden",
            concurrency_limit=None,
        )
        with gr.Tabs():
            with gr.Tab("Photo"):
                photo_tab(shelf, uploads, model)
            with gr.Tab("Webcam"):
                webcam_tab()
            with gr.Tab("Video"):
                stop = video_tab(shelf, settings, uploads, switches, model)
            if len(shelf.names) > 1:
                with gr.Tab("Compare"):
                    compare_tab(shelf, uploads)
        add_api(shelf, settings, uploads, switches)
        blocks.unload(stop)
    blocks.queue(max_size=32, default_concurrency_limit=1)
    return blocks


def _heading(settings: UiSettings) -> str:
    toggle = '<button type="button" class="fer-theme" data-fer="theme">Light or dark</button>'
    return f'<div class="fer-heading"><div><h1>Facial expressions</h1>{toggle}</div>{notice(settings)}</div>'


def _card(shelf: ModelShelf, name: str) -> str:
    try:
        rows = shelf.card(name)
        summary = " · ".join(rows[title] for title in ("Accuracy", "Date") if title in rows) or "What is known of it"
        return f'<details class="fer-model-card"><summary>{escaped(summary)}</summary>{definitions(rows)}</details>'
    except FerError as error:
        return problem(error)
