"""`fer predict`: pictures in; a table, JSON Lines or CSV, and drawn pictures out."""

from __future__ import annotations

import contextlib
import enum
import io
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from fer_app.errors import FerError, InputError
from fer_app.output_files import folded, make_output_folder, short_stem, writing_to

if TYPE_CHECKING:
    from fer_app.recognizer import Prediction, Recognizer
    from fer_app.results import Faces

# Fewer pictures are done before a progress bar is read.
_MANY = 8
_DRAWN_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


class Format(enum.StrEnum):
    """What goes to stdout."""

    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"


class _Stdin(io.BytesIO):
    """The picture on standard input, under the name that the user gave it."""

    name = "-"


def predict(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCES", help="Pictures, folders, patterns like '*.jpg', or - for standard input."),
    ],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look into subfolders too.")] = False,
    output_format: Annotated[Format, typer.Option("--format", "-f", help="What to print.")] = Format.TABLE,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Also write the pictures with the faces drawn in, over those of earlier runs.",
        ),
    ] = None,
    model: ModelOption = "default",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    backend: BackendOption = "onnx",
    gpu_memory: GpuMemoryOption = None,
    cuda_graphs: CudaGraphsOption = False,
    uncertain_below: UncertainBelowOption = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Faces classified at once.")] = 32,
    min_face: Annotated[
        int, typer.Option("--min-face", min=12, metavar="PX", help="Smallest face looked for, in pixels.")
    ] = 40,
    max_faces: Annotated[
        int | None, typer.Option("--max-faces", min=1, metavar="N", help="Keep only the largest faces of a picture.")
    ] = None,
    no_detect: Annotated[bool, typer.Option("--no-detect", help="Every picture is a face crop already.")] = False,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            "--max-pixels", min=1, metavar="N", help="Refuse pictures with more pixels  [default: 128 million]"
        ),
    ] = None,
) -> None:
    """Find the faces in pictures and read their expressions."""
    refuse_unknown(device, precision, backend)
    report = _Report()
    pictures = _expand(sources, recursive, output, report)
    if pictures:
        from fer_app.image_io import DEFAULT_MAX_PIXELS
        from fer_app.recognizer import Recognizer
        from fer_app.session import GpuOptions

        recognizer = Recognizer(
            model,
            device=device,
            precision=precision,
            backend=backend,
            batch_size=batch_size,
            min_face_px=min_face,
            max_faces=max_faces,
            detect=not no_detect,
            max_pixels=max_pixels or DEFAULT_MAX_PIXELS,
            uncertain_below=uncertain_below,
            gpu=GpuOptions(gpu_memory, cuda_graphs),
        )
        tell_device(recognizer, device)
        drawn = None if output is None else _DrawnPictures(output, pictures)
        _run(recognizer, pictures, output_format, drawn, report)
    if report.failed:
        report.line(f"{report.failed} of {len(pictures) + report.not_found} sources could not be read")
        raise typer.Exit(1)


class _Report:
    """Tells of what could not be read, on stderr, and counts it."""

    def __init__(self) -> None:
        self.failed = 0
        self.not_found = 0
        # Replaced while a progress bar owns the last line of the terminal.
        self.line: Callable[[str], None] = self._plain_line

    def _plain_line(self, text: str) -> None:
        typer.echo(f"fer: {text}", err=True)

    def source_failed(self, source: Any, error: FerError) -> None:  # noqa: ARG002 - the message names the source
        self.failed += 1
        self.line(str(error))


def _expand(sources: list[str], recursive: bool, output: Path | None, report: _Report) -> list[Path | _Stdin]:
    """Return the pictures that the arguments mean; what means none is reported.

    A folder does not mean the output folder below it: what an earlier run has drawn would be drawn again.
    """
    from fer_app.source_files import find_images

    pictures: list[Path | _Stdin] = []
    for source in sources:
        if source == "-":
            pictures.append(_Stdin(sys.stdin.buffer.read()))
            continue
        try:
            found = find_images([source], recursive=recursive)
            if output is not None and Path(source).resolve() in output.resolve().parents:
                found = [path for path in found if output.resolve() not in path.resolve().parents]
            if not found:
                hint = "" if recursive else "; --recursive looks into its subfolders"
                raise InputError(f"{source}: no picture in this folder{hint}")
        except InputError as error:
            report.not_found += 1
            report.source_failed(source, error)
        else:
            pictures += found
    return pictures


def tell_device(recognizer: Recognizer, asked: str) -> None:
    """Say what `auto` chose where there was a choice, and when the detector is not where the classifier is."""
    from fer_app.session import device_problem, nvidia_device_visible

    if asked.strip().lower() == "auto" and nvidia_device_visible():
        note = getattr(recognizer.classifier, "note", "")
        typer.echo(f"fer: running on {recognizer.classifier.device}{': ' + note if note else ''}", err=True)
    elif recognizer.detector is not None and recognizer.detector.device == "cpu" != recognizer.classifier.device:
        typer.echo(f"fer: the detector runs on cpu: {device_problem(asked)}", err=True)


def _run(
    recognizer: Recognizer,
    pictures: list[Path | _Stdin],
    output_format: Format,
    drawn: _DrawnPictures | None,
    report: _Report,
) -> None:
    with _sink(output_format, pictures) as write, _progress(len(pictures), report) as advance:

        def failed(source: Any, error: FerError) -> None:
            report.source_failed(source, error)
            advance()

        for prediction in recognizer.predict_many(pictures, on_error=failed):
            with _to_stdout():
                write(prediction.faces)
                sys.stdout.flush()
            if drawn is not None:
                drawn.write(prediction)
            advance()


@contextlib.contextmanager
def _to_stdout() -> Iterator[None]:
    """Turn a full disk behind stdout into an error of ours; a reader that went away is Typer's matter.

    Raises:
        InputError: stdout cannot be written.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is still in the buffer would fail once more, with a traceback, when Python ends.
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise InputError(f"the results cannot be written to standard output: {error.strerror}") from error


@contextlib.contextmanager
def _sink(output_format: Format, pictures: list[Path | _Stdin]) -> Iterator[Callable[[Faces], None]]:
    """Give the function that prints one picture's faces."""
    if output_format is Format.TABLE:
        from fer_app.cli.table import Table

        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        yield Table(sys.stdout, [_name(picture) for picture in pictures], width).write
        return
    from fer_app.sinks import CsvSink, JsonLinesSink

    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a program reads is the same on every system, whatever its terminals take.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    with JsonLinesSink(sys.stdout) if output_format is Format.JSONL else CsvSink(sys.stdout) as sink:
        yield sink.write


@contextlib.contextmanager
def _progress(count: int, report: _Report) -> Iterator[Callable[[], None]]:
    """Show a bar on stderr for many pictures, where someone looks and no results run over the same terminal."""
    if count < _MANY or not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(
        console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False, transient=True
    ) as progress:
        task = progress.add_task("pictures", total=count)
        before = report.line
        report.line = lambda text: progress.console.print(f"fer: {text}", markup=False, highlight=False, soft_wrap=True)
        try:
            yield lambda: progress.advance(task)
        finally:
            report.line = before


class _DrawnPictures:
    """Writes drawn pictures into one folder, each under a name of its own and never over a source."""

    def __init__(self, folder: Path, pictures: list[Path | _Stdin]) -> None:
        """Make the folder.

        Raises:
            InputError: it cannot be made.
        """
        make_output_folder(folder)
        self._folder = folder
        self._taken = {folded(picture) for picture in pictures if isinstance(picture, Path)}

    def write(self, prediction: Prediction) -> None:
        from fer_app.annotate import draw_faces
        from fer_app.image_io import write_image

        path = self._path_for(prediction.faces.source)
        with writing_to(path):
            write_image(path, draw_faces(prediction.image, prediction.faces))

    def _path_for(self, source: str) -> Path:
        """Return `photo_faces.jpg` for `photo.jpg`; `photo_faces_2.jpg` where that name is taken or is a source."""
        named = Path("stdin.png" if source == "-" else source)
        suffix = named.suffix.lower() if named.suffix.lower() in _DRAWN_SUFFIXES else ".jpg"
        stem = short_stem(named)
        for number in itertools.count(1):
            path = self._folder / f"{stem}_faces{'' if number == 1 else f'_{number}'}{suffix}"
            if folded(path) not in self._taken:
                break
        self._taken.add(folded(path))
        return path


def _name(picture: Path | _Stdin) -> str:
    return str(picture) if isinstance(picture, Path) else picture.name
