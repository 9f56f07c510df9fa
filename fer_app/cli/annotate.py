"""`fer annotate`: videos in; drawn videos, rows and summaries out."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_app.cli.options import (
    BackendOption,
    CudaGraphsOption,
    DeviceOption,
    GpuMemoryOption,
    ModelOption,
    PrecisionOption,
    UncertainBelowOption,
    refuse_unknown,
)
from fer_app.cli.predict import tell_device
from fer_app.errors import InputError

if TYPE_CHECKING:
    from fer_app.cli.annotate_one import Outcome
    from fer_app.recognizer import Recognizer
    from fer_app.video_faces import OutputPaths, Settings


def annotate(
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEOS",
            help="Video files (MP4, MOV, MKV, WebM, AVI, ...), folders or patterns; "
            "or a camera (0, /dev/video0) or stream (rtsp://, http://)",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where everything is written.")] = Path(
        "predictions"
    ),
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders mean their subfolders too.")] = False,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", min=1, metavar="N", help="Work on N videos at once; worth it with more than four cores."
        ),
    ] = 1,
    no_video: Annotated[bool, typer.Option("--no-video", help="Write rows and the summary alone.")] = False,
    blur: Annotated[bool, typer.Option("--blur", help="Make the faces unrecognisable in the video.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Also write the rows as JSON Lines.")] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="Also write the rows as Parquet.")] = False,
    timeline: Annotated[bool, typer.Option("--timeline", help="Also plot the expressions over time.")] = False,
    storyboard: Annotated[
        bool, typer.Option("--storyboard", help="Also make a sheet of the clearest moment of each expression.")
    ] = False,
    every: Annotated[int, typer.Option("--every", min=1, metavar="N", help="Take each N-th frame.")] = 1,
    fps: Annotated[
        float | None, typer.Option("--fps", metavar="F", help="Take at most so many frames a second.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", metavar="S", help="End so many seconds after the first frame.")
    ] = None,
    detect_every: Annotated[
        int | None,
        typer.Option(
            "--detect-every",
            min=1,
            metavar="N",
            help="Search the whole of each N-th frame for faces, and follow them in between; 1 searches every frame  "
            "[default: five frames a second; every frame with --blur]",
        ),
    ] = None,
    smooth: Annotated[
        float,
        typer.Option(
            "--smooth", min=0, metavar="S", help="Half-life of the smoothing over time in seconds; 0 turns it off."
        ),
    ] = 0.3,
    model: ModelOption = "default",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    backend: BackendOption = "onnx",
    gpu_memory: GpuMemoryOption = None,
    cuda_graphs: CudaGraphsOption = False,
    uncertain_below: UncertainBelowOption = None,
    min_face: Annotated[
        int, typer.Option("--min-face", min=12, metavar="PX", help="Smallest face looked for, in pixels.")
    ] = 40,
    max_faces: Annotated[
        int | None, typer.Option("--max-faces", min=1, metavar="N", help="Keep only the largest faces of a frame.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on: leave out the videos that are complete.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files of an earlier run.")] = False,
) -> None:
    """Read the expressions of every face in videos; draw them, and write rows and a summary."""
    refuse_unknown(device, precision, backend)
    _refuse_contradictions(fps=fps, every=every, smooth=smooth, no_video=no_video, blur=blur)
    if resume and overwrite:
        raise typer.BadParameter("give --resume or --overwrite, not both", param_hint="--overwrite")
    from fer_app.backends import ONNX, find_model
    from fer_app.cli.live_input import refuse_live_contradictions

    found = _expanded(videos, recursive, output)
    refuse_live_contradictions(found, duration=duration, every=every, resume=resume, jobs=jobs)
    from fer_app.cli.annotate_jobs import Job, annotate_at_once
    from fer_app.cli.annotate_report import Report
    from fer_app.output_files import make_output_folder
    from fer_app.recognizer import Recognizer
    from fer_app.session import GpuOptions
    from fer_app.stop_signals import StopSignals
    from fer_app.video import shown_name
    from fer_app.video_faces import Settings, Wanted, name_outputs

    wanted = Wanted(video=not no_video, jsonl=jsonl, parquet=parquet, timeline=timeline, storyboard=storyboard)
    wanted.check_installed()
    model_file = find_model(model, backend=backend, precision=precision, device=device)
    settings = Settings(
        every=every,
        fps=fps,
        duration_s=duration,
        detect_every=detect_every,
        smooth_s=smooth,
        blur=blur,
        min_face_px=min_face,
        max_faces=max_faces,
        uncertain_below=uncertain_below,
        model_sha256=_sha256(model_file),
        backend=None if backend == ONNX else f"{backend} {precision}",
    )
    named = list(zip(found, name_outputs(found, output, wanted), strict=True))
    make_output_folder(output)
    if not (resume or overwrite):
        _refuse_overwriting([paths for _, paths in named])
    gpu = GpuOptions(gpu_memory, cuda_graphs)
    recognizer = Recognizer(
        model_file,
        device=device,
        precision=precision,
        backend=backend,
        min_face_px=min_face,
        max_faces=max_faces,
        uncertain_below=uncertain_below,
        gpu=gpu,
    )
    tell_device(recognizer, device)
    outcomes: dict[int, Outcome] = {}
    with StopSignals() as signals:

        def stop() -> bool:
            return signals.received is not None

        if jobs > 1 and len(named) > 1:
            del recognizer  # every process has its own
            job = Job(model_file, device, settings, resume, gpu, precision, backend)
            done = annotate_at_once(named, job, jobs, stop)
        else:
            done = _one_by_one(recognizer, named, settings, resume, stop)
        for place, outcome in done:
            outcomes[place] = outcome
            if outcome.problem:
                typer.echo(outcome.problem, err=True)
    report = Report()
    for place, outcome in sorted(outcomes.items()):
        report.add(shown_name(named[place][0]), outcome.summary, outcome.note)
    report.print()
    if signals.received is not None:
        raise typer.Exit(128 + signals.received)
    if report.failed:
        typer.echo(f"fer: {report.failed} of {len(named)} videos are not complete", err=True)
        raise typer.Exit(1)


def _one_by_one(
    recognizer: Recognizer,
    named: list[tuple[str, OutputPaths]],
    settings: Settings,
    resume: bool,
    stop: Callable[[], bool],
) -> Iterator[tuple[int, Outcome]]:
    from fer_app.cli.annotate_one import annotate_one
    from fer_app.cli.live_input import progress_of

    for place, (video, paths) in enumerate(named):
        if not stop():
            progress = progress_of(video, settings)
            yield (
                place,
                annotate_one(recognizer, video, paths, settings, resume=resume, stop=stop, progress=progress),
            )


def _expanded(videos: list[str], recursive: bool, output: Path) -> list[str]:
    """Put the videos of a folder or pattern in its place; whatever else there is stays as it was named.

    Raises:
        InputError: a folder or pattern without videos, or results would be written among the videos of a folder.
    """
    from fer_app.source_files import find_videos, is_folder
    from fer_app.video import is_live

    written = output.resolve()
    found: list[str] = []
    for video in videos:
        path = Path(video)
        if is_folder(path):
            if is_folder(output) and path.samefile(output):
                raise InputError(f"{output}: is the folder of the videos: results among them would be taken for more")
            inside = [one for one in find_videos([path], recursive) if not one.resolve().is_relative_to(written)]
            if not inside:
                raise InputError(
                    f"{video}: holds no video{'' if recursive else ' (--recursive looks into subfolders)'}"
                )
            found += map(str, inside)
        elif not path.exists() and not is_live(video) and glob.has_magic(video):
            found += map(str, find_videos([video], recursive))
        else:
            found.append(video)
    return found


def _refuse_contradictions(*, fps: float | None, every: int, smooth: float, no_video: bool, blur: bool) -> None:
    if fps is not None and not 0 < fps < float("inf"):
        raise typer.BadParameter(f"{fps} is no number of frames a second", param_hint="--fps")
    if fps is not None and every > 1:
        raise typer.BadParameter("give --every or --fps, not both", param_hint="--fps")
    if not smooth < float("inf"):
        raise typer.BadParameter(f"{smooth} is no number of seconds", param_hint="--smooth")
    if no_video and blur:
        raise typer.BadParameter("there is no picture to blur with --no-video", param_hint="--blur")


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_overwriting(outputs: list[OutputPaths]) -> None:
    try:
        there = [path for paths in outputs for path in [*paths.finished, *paths.unfinished] if path.exists()]
    except OSError as error:  # a name that is too long, for instance
        raise InputError(f"{error.filename}: cannot be written: {error.strerror}") from error
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise InputError(
            f"{there[0]}{more}: there already; --resume leaves out complete videos, --overwrite makes all of them again"
        )
