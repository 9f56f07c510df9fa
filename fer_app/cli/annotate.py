"""`fer annotate`: videos in; drawn videos, rows and summaries out."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fer_app.cli.options import DeviceOption, ModelOption, PrecisionOption, refuse_unknown
from fer_app.cli.predict import tell_device
from fer_app.errors import FerError, InputError

if TYPE_CHECKING:
    from fer_app.recognizer import Recognizer
    from fer_app.stop_signals import StopSignals
    from fer_app.video_faces import OutputPaths, Settings


def annotate(
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEOS",
            help="Video files: MP4, MOV, MKV, WebM, AVI, ...; or a camera (0, /dev/video0) or stream (rtsp://, http://)",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where everything is written.")] = Path(
        "predictions"
    ),
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
    refuse_unknown(device, precision)
    _refuse_contradictions(fps=fps, every=every, smooth=smooth, no_video=no_video, blur=blur)
    if resume and overwrite:
        raise typer.BadParameter("give --resume or --overwrite, not both", param_hint="--overwrite")
    from fer_app.cli.live_input import refuse_live_contradictions

    refuse_live_contradictions(videos, duration=duration, every=every, resume=resume)
    from fer_app.model_choice import choose_model
    from fer_app.recognizer import Recognizer
    from fer_app.stop_signals import StopSignals
    from fer_app.video import shown_name
    from fer_app.video_faces import Settings, Wanted, name_outputs

    wanted = Wanted(video=not no_video, jsonl=jsonl, parquet=parquet, timeline=timeline, storyboard=storyboard)
    wanted.check_installed()
    model_file = choose_model(model, precision=precision, device=device)
    settings = Settings(
        every=every,
        fps=fps,
        duration_s=duration,
        detect_every=detect_every,
        smooth_s=smooth,
        blur=blur,
        min_face_px=min_face,
        max_faces=max_faces,
        model_sha256=_sha256(model_file),
    )
    named = list(zip(videos, name_outputs(videos, output, wanted), strict=True))
    _make_folder(output)
    if not (resume or overwrite):
        _refuse_overwriting([paths for _, paths in named])
    recognizer = Recognizer(model_file, device=device, min_face_px=min_face, max_faces=max_faces)
    tell_device(recognizer, device)
    with StopSignals() as signals:
        report = _Report()
        for video, paths in named:
            if signals.received is None:
                report.add(shown_name(video), *_one(recognizer, video, paths, settings, resume, signals))
    report.print()
    if signals.received is not None:
        raise typer.Exit(128 + signals.received)
    if report.failed:
        typer.echo(f"fer: {report.failed} of {len(named)} videos are not complete", err=True)
        raise typer.Exit(1)


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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InputError(f"{folder}: is a file; --output takes a folder") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot write there: {error.strerror}") from error


def _refuse_overwriting(outputs: list[OutputPaths]) -> None:
    there = [path for paths in outputs for path in [*paths.finished, *paths.unfinished] if path.exists()]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise InputError(
            f"{there[0]}{more}: there already; --resume leaves out complete videos, --overwrite makes all of them again"
        )


def _one(
    recognizer: Recognizer, video: str, paths: OutputPaths, settings: Settings, resume: bool, signals: StopSignals
) -> tuple[dict[str, Any] | None, str]:
    """Do one video, and tell of what went wrong; return its summary, if there is one, and what to say of it."""
    from fer_app.cli.live_input import opened, progress_of
    from fer_app.video_faces import annotate_video

    def stop() -> bool:
        return signals.received is not None

    progress = progress_of(video, settings)
    try:
        if resume and (done := _complete(video, paths, settings)):
            return done, "complete before"
        with opened(video, settings, progress, stop) as source:
            summary = annotate_video(recognizer, source, paths, settings, stop=stop, on_frame=progress.advance)
    except FerError as error:
        progress.clear()
        typer.echo(f"fer: {error}", err=True)
        return None, "failed"
    except BaseException:
        progress.clear()
        raise
    progress.clear()
    if summary["problem"]:
        stopped = signals.received is not None
        name = f"{summary['source']}: {summary['problem']}" if stopped else summary["problem"]
        typer.echo(f"fer: {name}", err=True)
        return summary, "stopped" if stopped else "damaged"
    return summary, ""


def _complete(video: str, paths: OutputPaths, settings: Settings) -> dict[str, Any] | None:
    """Return the summary of an earlier run of the same video that left nothing to do.

    Raises:
        InputError: that run was complete, but of other settings: going on would mix two kinds of results.
    """
    from fer_app.video_faces import read_summary

    summary = read_summary(paths.summary)
    if summary is None or not summary["complete"]:
        return None
    with contextlib.suppress(OSError):
        if summary["source_bytes"] != Path(video).stat().st_size:
            return None
    if not all((paths.summary.parent / name).is_file() for name in summary["settings"]["files"]):
        return None
    differing = [key for key, value in settings.record(paths).items() if summary["settings"].get(key) != value]
    if differing:
        raise InputError(
            f"{paths.summary}: is complete, but made with another {', '.join(differing)}; --overwrite makes it again"
        )
    return summary


class _Report:
    """The table of all videos."""

    def __init__(self) -> None:
        self.failed = 0
        self._rows: list[tuple[str, ...]] = []

    def add(self, video: str, summary: dict[str, Any] | None, note: str) -> None:
        """Note how a video went."""
        self.failed += note in ("failed", "damaged", "stopped")
        if summary is None:
            self._rows.append((video, "", "", "", "", "", note))
            return
        shares = sorted((summary["expressions"] or {}).items(), key=lambda item: -item[1])[:3]
        top = " ".join(f"{label} {share:.0%}" for label, share in shares if share >= 0.005)
        numbers = (summary["frames"], f"{summary['seconds']:.1f}", summary["faces"], len(summary["tracks"]))
        self._rows.append((video, *map(str, numbers), top or "no face", note))

    def print(self) -> None:
        """Write it to stdout."""
        from fer_app.cli.table import cells

        rows = [("video", "frames", "seconds", "faces", "tracks", "expressions", ""), *self._rows]
        # A name may hold anything but a slash; a line break in it must not break the table.
        rows = [("".join(c if c.isprintable() else "?" for c in row[0]), *row[1:]) for row in rows]
        widths = [max(cells(row[i]) for row in rows) for i in range(7)]
        for row in rows:
            padded = [
                " " * (width - cells(text)) + text if 1 <= i <= 4 else text + " " * (width - cells(text))
                for i, (text, width) in enumerate(zip(row, widths, strict=True))
            ]
            typer.echo("  ".join(padded).rstrip())
