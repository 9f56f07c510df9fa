"""The named functions that programs call through `gradio_client`: `/predict` and `/annotate`; `docs/ui.md` has them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from fer_app.errors import FerError, InputError
from fer_app.ui.html import named
from fer_app.ui.model_shelf import ModelShelf
from fer_app.ui.photo import MOST_PICTURES, records_of
from fer_app.ui.settings import UiSettings
from fer_app.ui.stop_switches import StopSwitches
from fer_app.ui.upload_folder import UploadFolder
from fer_app.ui.video_tab import make_job


def add_api(shelf: ModelShelf, settings: UiSettings, uploads: UploadFolder, switches: StopSwitches) -> None:
    """Put the functions into the blocks that are being made; nothing of it is seen.

    Args:
        shelf: the classifiers.
        settings: what is allowed.
        uploads: where files go.
        switches: what stops videos.
    """
    default = shelf.names[0]

    def predict(files: list[str] | None, model: str) -> list[dict[str, Any]]:
        """Read the faces of pictures: a record a face, or one that says that there is none, or `error`."""
        try:
            if len(files or []) > MOST_PICTURES:
                raise InputError(f"{len(files or [])} pictures are too many at once; send {MOST_PICTURES} at most")
            return records_of(shelf.recognizer(model), files or [])
        except FerError as error:
            raise gr.Error(str(error), print_exception=False) from error
        finally:
            uploads.delete(files or [])

    def annotate(
        video: str | None,
        model: str,
        blur: bool,
        every: float | None,
        detect_every: float,
        smooth_s: float,
        min_face_px: float,
        max_faces: float | None,
        more_files: list[str],
    ) -> tuple[dict[str, Any], list[str]]:
        """Annotate a video: its summary, and the files."""
        try:
            job = make_job(
                shelf,
                settings,
                uploads,
                switches.new(),
                video,
                model,
                blur=blur,
                every=every,
                detect_every=detect_every,
                smooth_s=smooth_s,
                min_face_px=min_face_px,
                max_faces=max_faces,
                files=more_files,
            )
        except FerError as error:
            raise gr.Error(named(error, video or ""), print_exception=False) from error
        for _ in job.updates():
            pass
        uploads.delete([video or ""])
        if job.result is None:
            raise gr.Error(job.error, print_exception=False)
        return job.result.summary, [str(path) for path in job.result.paths]

    with gr.Group(visible=False):
        files = gr.File(file_count="multiple", label="files")
        video = gr.File(label="video")
        model = gr.Textbox(default, label="model")
        blur = gr.Checkbox(label="blur")
        every = gr.Number(1, label="every")
        detect_every = gr.Number(0, label="detect_every")
        smooth_s = gr.Number(0.3, label="smooth_s")
        min_face_px = gr.Number(40, label="min_face_px")
        max_faces = gr.Number(0, label="max_faces")
        more_files = gr.JSON([], label="more_files")
        records, summary, written = gr.JSON(), gr.JSON(), gr.File(file_count="multiple")
        options = [blur, every, detect_every, smooth_s, min_face_px, max_faces, more_files]
        gr.Button().click(predict, [files, model], records, api_name="predict", concurrency_id="photo")
        gr.Button().click(
            annotate, [video, model, *options], [summary, written], api_name="annotate", concurrency_id="video"
        )
