"""The tab that compares two models; it is there when there are two."""

from __future__ import annotations

import gradio as gr

from fer_app.errors import FerError
from fer_app.ui.compare import show_comparison
from fer_app.ui.html import problem
from fer_app.ui.html_block import html_block
from fer_app.ui.model_shelf import ModelShelf
from fer_app.ui.photo_tab import EXAMPLE, PICTURES
from fer_app.ui.upload_folder import UploadFolder


def compare_tab(shelf: ModelShelf, uploads: UploadFolder) -> None:
    """Put the tab into the blocks that are being made.

    Args:
        shelf: the classifiers, two or more.
        uploads: where files go.
    """

    def compare(paths: list[str] | None, first: str, second: str) -> str:
        try:
            names = (first, second)
            return show_comparison([shelf.recognizer(name) for name in names], names, paths or [], uploads.new())
        except FerError as error:
            return problem(error)

    with gr.Row():
        first = gr.Dropdown(list(shelf.names), value=shelf.names[0], label="First model", filterable=False)
        second = gr.Dropdown(list(shelf.names), value=shelf.names[1], label="Second model", filterable=False)
    files = gr.File(
        label="Pictures: drop, choose or paste",
        file_count="multiple",
        file_types=PICTURES,
        height=150,
        elem_id="fer-compare-files",
    )
    with gr.Row():
        again = gr.Button("Compare", variant="primary", min_width=120)
        folder = gr.UploadButton("Choose a folder", file_count="directory", min_width=120)
        example = gr.Button("Compare on the example", min_width=120)
    shown = html_block(compare([], shelf.names[0], shelf.names[1]), elem_id="fer-compare-result")
    gr.on(
        [files.upload, again.click],
        compare,
        [files, first, second],
        shown,
        api_visibility="private",
        concurrency_id="photo",
    )
    folder.upload(compare, [folder, first, second], shown, api_visibility="private", concurrency_id="photo")
    example.click(
        lambda one, other: compare([str(EXAMPLE)], one, other),
        [first, second],
        shown,
        api_visibility="private",
        concurrency_id="photo",
    )
