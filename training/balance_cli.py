"""`fer balance`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def balance(
    checkpoint: Annotated[
        str, typer.Argument(metavar="NAME|PATH", help="A classifier's .safetensors, or a bundled model's name.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .safetensors file to write.")],
    data: Annotated[
        Path,
        typer.Option("--data", help="The labelled faces it was trained on: they count the classes, and dev chooses."),
    ],
    tau: Annotated[
        float | None,
        typer.Option(
            "--tau", min=0.0, max=1.0, help="How far, 0 to 1  [default: as far as dev loses no accuracy by it]"
        ),
    ] = None,
) -> None:
    """Have a trained classifier say rare classes more often, at the same size and speed."""
    from training.balance import balance as made_by
    from training.checkpoint import checkpoint_at

    if output.suffix != ".safetensors":
        raise typer.BadParameter(f"{output} does not end in .safetensors", param_hint="--output")
    done = made_by(checkpoint_at(checkpoint), output, data, tau)
    typer.echo(str(output))
    assert done.info.contract is not None
    lifted = [f"{label} {lift:+.2f}" for label, lift in zip(done.info.contract.labels, done.lift, strict=True) if lift]
    typer.echo(f"fer: tau {done.tau:g}; logits: {', '.join(lifted) or 'no class is lifted'}", err=True)
    told = [
        f"{words} {100 * after:.2f} % ({100 * before:.2f} before)"
        for words, before, after in (
            ("dev accuracy", done.before.accuracy, done.info.metrics["dev_accuracy"]),
            ("mean class accuracy", done.before.mean_class_accuracy, done.info.metrics["dev_mean_class_accuracy"]),
        )
    ]
    typer.echo(f"fer: {', '.join(told)}", err=True)
    model = shlex.quote(str(output))
    typer.echo(f"fer: next: fer eval {model} --data DIR, then fer export {model} -o model.onnx", err=True)
