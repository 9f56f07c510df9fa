"""`fer export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from training.data.image_set import ImageSet


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors classifier checkpoint.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="FERPlus folder or archive: score before and after.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="What to score on.")] = "valid",
    atol: Annotated[float, typer.Option("--atol", help="Largest difference of a logit that is accepted.")] = 1e-4,
) -> None:
    """Export a checkpoint to ONNX, and prove that the file computes the same."""
    from export.onnx_export import export_onnx
    from training.evaluation import evaluate, file_sha256, open_classifier

    faces = None if data is None else _faces(data, split)
    report = export_onnx(checkpoint, output, tolerance=atol)
    typer.echo(f"{report.path}  {report.bytes / 1e6:.2f} MB  sha256 {file_sha256(report.path)}")
    for batch, difference in report.differences.items():
        typer.echo(f"parity, batch {batch:>2}: largest difference of a logit {difference:.2e} (bound {atol:g})")
    if faces is not None:
        for path in (checkpoint, output):
            score = evaluate(open_classifier(path, device="cpu"), faces)
            typer.echo(f"{path.name}: accuracy {100 * score.accuracy:.2f} (n = {score.n}, FERPlus {split}, majority)")


def _faces(data: Path, split: str) -> ImageSet:
    """Read what is scored on: before the export, so that a mistake leaves no file."""
    from training.data.ferplus import SPLITS, load_ferplus
    from training.data.locate import locate

    if split not in SPLITS:
        raise typer.BadParameter(f"{split!r} is none of {', '.join(SPLITS)}", param_hint="--split")
    return load_ferplus(locate([data]).need_ferplus(), split)
