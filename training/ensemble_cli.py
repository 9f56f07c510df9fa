"""`fer ensemble`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def ensemble(
    members: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME|PATH...",
            help="Classifiers' .safetensors, or bundled models' names; two or more, or one with --mirrored.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .safetensors file to write.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Labelled faces: dev of them, which no member has seen, calibrates  [default: no calibration]",
        ),
    ] = None,
    mirrored: Annotated[
        bool, typer.Option("--mirrored", help="Members see mirror images too, for twice the arithmetic.")
    ] = False,
) -> None:
    """Join classifiers into one, whose answer is the mean of theirs."""
    from training.checkpoint import checkpoint_at
    from training.ensemble import join

    if output.suffix != ".safetensors":
        raise typer.BadParameter(f"{output} does not end in .safetensors", param_hint="--output")
    info = join([checkpoint_at(member) for member in members], output, data, mirrored=mirrored)
    typer.echo(str(output))
    if "dev_accuracy" in info.metrics:
        accuracy, mean_class = (info.metrics[f"dev_{figure}"] for figure in ("accuracy", "mean_class_accuracy"))
        typer.echo(f"fer: dev accuracy {100 * accuracy:.2f} %, mean class accuracy {100 * mean_class:.2f} %", err=True)
    model = shlex.quote(str(output))
    typer.echo(f"fer: next: fer eval {model} --data DIR, then fer export {model} -o model.onnx", err=True)
