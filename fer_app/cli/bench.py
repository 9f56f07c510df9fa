"""`fer bench`: how fast this machine does each step, for one or several models."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from fer_app.cli.options import CudaGraphsOption, DeviceOption, GpuMemoryOption, refuse_unknown


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Bundled models' names, ONNX files, or folders of `fer export`."),
    ] = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        str,
        typer.Option(
            "--precision", metavar="NAME,...", help="Arithmetic of each model: auto, fp32, fp16, bf16 or int8."
        ),
    ] = "auto",
    batch: Annotated[
        str, typer.Option("--batch", metavar="N,...", help="Faces that are classified at once.")
    ] = "1,8,32,128",
    images: Annotated[
        list[str] | None,
        typer.Option("--images", metavar="PATH", help="Measure with these pictures, not made-up ones; repeatable."),
    ] = None,
    min_face: Annotated[
        int, typer.Option("--min-face", min=12, metavar="PX", help="Smallest face looked for, in pixels.")
    ] = 40,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, metavar="N", help="CPU threads  [default: one a core]")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0, metavar="S", help="About how long to measure.")] = 20,
    gpu_memory: GpuMemoryOption = None,
    cuda_graphs: CudaGraphsOption = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures as JSON.")
    ] = None,
) -> None:
    """Measure decoding, detection, alignment, classification and all together, beside the machine's matrix peak."""
    precisions = tuple(dict.fromkeys(name.strip() for name in precision.split(",")))
    for name in precisions:
        refuse_unknown(device, name)
    batches = _batches(batch)
    from fer_app.atomic_file import replacing
    from fer_app.bench import Settings, as_text, measure
    from fer_app.output_files import writing_to
    from fer_app.session import GpuOptions

    settings = Settings(
        models=tuple(models or ("default",)),
        precisions=precisions,
        device=device,
        batches=batches,
        images=tuple(images or ()),
        seconds=seconds,
        threads=threads,
        min_face_px=min_face,
        gpu=GpuOptions(gpu_memory, cuda_graphs),
    )
    report = None
    try:
        with contextlib.nullcontext() if json_file is None else replacing(json_file) as file:
            with _progress(seconds) as on_turn:
                report = measure(settings, on_turn)
            if file is not None and json_file is not None:
                with writing_to(json_file):
                    file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    finally:
        if report is not None:  # whatever became of the file
            typer.echo(as_text(report), nl=False)


def _batches(text: str) -> tuple[int, ...]:
    sizes = [part.strip() for part in text.split(",")]
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise typer.BadParameter(f"{text!r} is no list of numbers such as 1,8,32", param_hint="--batch")
    return tuple(sorted({int(size) for size in sizes}))


@contextlib.contextmanager
def _progress(seconds: float) -> Iterator[Callable[[float], None]]:
    """Give a function that shows how far it is, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return

    def show(gone: float) -> None:
        typer.echo(f"\r\033[Kmeasuring: {gone:.0f} of about {seconds:.0f} s", err=True, nl=False)

    try:
        yield show
    finally:
        typer.echo("\r\033[K", err=True, nl=False)
