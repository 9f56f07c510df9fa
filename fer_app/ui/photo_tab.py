"""The tab for photos."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from fer_app.errors import FerError
from fer_app.source_files import IMAGE_SUFFIXES
from fer_app.ui.html import problem
from fer_app.ui.html_block import html_block
from fer_app.ui.model_shelf import ModelShelf
from fer_app.ui.photo import NOTHING, show_photos
from fer_app.ui.upload_folder import UploadFolder

ASSETS = Path(__file__).resolve().parent / "assets"
EXAMPLE = ASSETS / "astronaut.jpg"  # NASA, public domain; as in examples/
# The browser's file dialogue offers these; what a file is shows its content. By their endings too: what a machine
# takes for a picture depends on its table of types.
PICTURES = ["image", *sorted(IMAGE_SUFFIXES)]


def photo_tab(shelf: ModelShelf, uploads: UploadFolder, model: gr.Dropdown) -> None:
    """Put the tab into the blocks that are being made.

    Args:
        shelf: the classifiers.
        uploads: where files go.
        model: names the chosen classifier.
    """

    def read(paths: list[str] | None, name: str) -> str:
        try:
            return show_photos(shelf.recognizer(name), paths or [], uploads.new(), model=shelf.title(name))
        except FerError as error:
            return problem(error)

    def read_example(name: str) -> str:
        return read([str(EXAMPLE)], name)

    files = gr.File(
        label="Pictures: drop, choose or paste",
        file_count="multiple",
        file_types=PICTURES,
        height=150,
        elem_id="fer-photo-files",
    )
    with gr.Row():
        again = gr.Button("Read the faces", variant="primary", min_width=120)
        example = gr.Button("Try the example", min_width=120)
    shown = html_block(NOTHING, elem_id="fer-photo-result")
    gr.on([files.upload, again.click], read, [files, model], shown, api_visibility="private", concurrency_id="photo")
    example.click(read_example, model, shown, api_visibility="private", concurrency_id="photo")
