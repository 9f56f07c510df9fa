"""The tab for videos."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import gradio as gr

from fer_app.errors import InputError
from fer_app.source_files import VIDEO_SUFFIXES
from fer_app.ui.html_block import html_block
from fer_app.ui.model_shelf import ModelShelf
from fer_app.ui.settings import UiSettings
from fer_app.ui.stop_switches import StopSwitch, StopSwitches
from fer_app.ui.upload_folder import UploadFolder
from fer_app.ui.video import VideoJob, show_video
from fer_app.video_faces import Settings, Wanted

_NOTHING = '<p class="fer-hint">The annotated video will be shown here.</p>'
_SEARCHES = [("five times a second", 0), ("in every frame", 1), ("in every 3rd frame", 3), ("in every 10th frame", 10)]
# By their endings too: what a machine takes for a video depends on its table of types.
VIDEOS = ["video", *sorted(VIDEO_SUFFIXES)]


def more_files() -> list[tuple[str, str]]:
    """Return what else can be written here: titles and names of `Wanted`'s fields."""
    kinds = [("Rows as JSON Lines", "jsonl"), ("Storyboard", "storyboard")]
    for package, title, name in (("pyarrow", "Rows as Parquet", "parquet"), ("matplotlib", "Timeline", "timeline")):
        if importlib.util.find_spec(package):
            kinds.append((title, name))
    return kinds


def make_job(
    shelf: ModelShelf,
    settings: UiSettings,
    uploads: UploadFolder,
    switch: StopSwitch,
    path: str | None,
    model: str,
    *,
    blur: bool = False,
    every: float | None = 1,
    detect_every: float = 0,
    smooth_s: float = 0.3,
    min_face_px: float = 40,
    max_faces: float | None = 0,
    files: list[str] | None = None,
) -> VideoJob:
    """Make a job of what somebody asked for; 0 is the default of `detect_every`, and for all faces of `max_faces`.

    An emptied field, None, is its default.

    Raises:
        FerError: as `VideoJob` and `ModelShelf.recognizer`.
        InputError: no video, or a setting that is none.
    """
    if not path:
        raise InputError("choose a video first")
    known = {"jsonl", "parquet", "timeline", "storyboard"}
    if not set(files or ()) <= known:
        raise InputError(f"files are some of {', '.join(sorted(known))}")
    every, max_faces = 1 if every is None else every, max_faces or 0
    if every < 1 or detect_every < 0 or max_faces < 0 or not 0 <= smooth_s < float("inf"):
        raise InputError("every is at least 1; detect_every, max_faces and smooth_s are at least 0")
    largest = int(max_faces) or None
    return VideoJob(
        shelf.recognizer(model, min_face_px=min_face_px, max_faces=largest),
        Path(path),
        uploads.new(),
        Wanted(**dict.fromkeys(files or (), True)),
        Settings(
            every=int(every),
            detect_every=int(detect_every) or None,
            smooth_s=smooth_s,
            blur=blur,
            min_face_px=min_face_px,
            max_faces=largest,
            uncertain_below=settings.uncertain_below,
            model_sha256=shelf.sha256(model),
        ),
        max_minutes=settings.max_video_minutes,
        switch=switch,
        at_work=partial(uploads.keep, path),
    )


def video_tab(
    shelf: ModelShelf, settings: UiSettings, uploads: UploadFolder, switches: StopSwitches, model: gr.Dropdown
) -> Callable[[gr.Request], None]:
    """Put the tab into the blocks that are being made.

    Args:
        shelf: the classifiers.
        settings: how long a video may be.
        uploads: where files go.
        switches: what stops the videos.
        model: names the chosen classifier.

    Returns:
        What stops the video of the visitor that asks, to be called when it leaves.
    """
    video = gr.File(
        label="A video: drop or choose",
        file_count="single",
        file_types=VIDEOS,
        height=150,
        elem_id="fer-video-file",
    )
    with gr.Accordion("Options", open=False), gr.Row():
        blur = gr.Checkbox(label="Make the faces unrecognisable", min_width=220)
        every = gr.Number(1, label="Take each N-th frame", minimum=1, precision=0, min_width=220)
        detect_every = gr.Dropdown(_SEARCHES, value=0, label="Search for faces", filterable=False, min_width=220)
        smooth_s = gr.Slider(0, 2, 0.3, step=0.1, label="Smoothing: half-life, seconds", min_width=220)
        min_face_px = gr.Slider(20, 200, 40, step=1, label="Smallest face, pixels", min_width=220)
        max_faces = gr.Number(0, label="Only the N largest faces (0: all)", minimum=0, precision=0, min_width=220)
        files = gr.CheckboxGroup(more_files(), value=["storyboard"], label="More files")
    with gr.Row():
        begin = gr.Button("Annotate", variant="primary", min_width=120)
        cancel = gr.Button("Cancel", min_width=120)
    shown = html_block(_NOTHING, elem_id="fer-video-result")
    options = [blur, every, detect_every, smooth_s, min_face_px, max_faces, files]

    def run(
        path: str | None,
        name: str,
        blur: bool,
        every: float | None,
        detect_every: float,
        smooth_s: float,
        min_face_px: float,
        max_faces: float | None,
        files: list[str],
        request: gr.Request,
    ) -> Iterator[str]:
        switch = switches.new(str(request.session_hash))

        def job() -> VideoJob:
            return make_job(
                shelf,
                settings,
                uploads,
                switch,
                path,
                name,
                blur=blur,
                every=every,
                detect_every=detect_every,
                smooth_s=smooth_s,
                min_face_px=min_face_px,
                max_faces=max_faces,
                files=files,
            )

        yield from show_video(path, job, shelf.title(name))

    def stop(request: gr.Request) -> None:
        switches.press(str(request.session_hash))

    begin.click(
        run,
        [video, model, *options],
        shown,
        api_visibility="private",
        concurrency_id="video",
        show_progress="hidden",
    )
    cancel.click(stop, None, None, api_visibility="private", concurrency_limit=None)
    return stop
