"""The tab that compares two models; it is there when there are two."""

from __future__ import annotations

import gradio as gr

from fer_app.errors import FerError
from fer_app.ui.compare import NOTHING, show_comparison
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

    def compare(paths: list[str] | None, first: str, second: str) -> tuple[str, list[str]]:
        """Return what is shown, and the pictures, which the button compares again."""
        paths = paths or []
        if not paths:
            return NOTHING, paths
        names = (first, second)
        try:
            recognizers = [shelf.recognizer(name) for name in names]
            return show_comparison(recognizers, [shelf.title(name) for name in names], paths, uploads.new()), paths
        except FerError as error:
            return problem(error), paths

    choices = [(shelf.title(name), name) for name in shelf.names]
    with gr.Row():
        first = gr.Dropdown(choices, value=shelf.names[0], label="First model", filterable=False)
        second = gr.Dropdown(choices, value=shelf.names[1], label="Second model", filterable=False)
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
    shown = html_block(NOTHING, elem_id="fer-compare-result")
    last: gr.State = gr.State([])
    # A picture that is taken out of the list is not compared again.
    files.change(
        lambda paths: paths or [], files, last, api_visibility="private", show_progress="hidden", concurrency_limit=None
    )
    for event, source in ((files.upload, files), (folder.upload, folder), (again.click, last)):
        event(compare, [source, first, second], [shown, last], api_visibility="private", concurrency_id="photo")
    example.click(
        lambda one, other: compare([str(EXAMPLE)], one, other),
        [first, second],
        [shown, last],
        api_visibility="private",
        concurrency_id="photo",
    )
