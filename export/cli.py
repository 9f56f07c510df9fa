"""`fer export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_app.errors import CheckpointError

if TYPE_CHECKING:
    from training.data.image_set import ImageSet


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors classifier checkpoint.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Labelled faces, as fer eval takes them: score before and after.")
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="train, train-main, dev, valid, test or train+valid.")
    ] = "valid",
    atol: Annotated[float, typer.Option("--atol", help="Largest difference of a logit that is accepted.")] = 1e-4,
) -> None:
    """Export a checkpoint to ONNX, and prove that the file computes the same."""
    from export.onnx_export import export_onnx
    from training.evaluation import evaluate, file_sha256, open_classifier

    scored_on = None if data is None else _faces(checkpoint, data, split)
    report = export_onnx(checkpoint, output, tolerance=atol)
    typer.echo(f"{report.path}  {report.bytes / 1e6:.2f} MB  sha256 {file_sha256(report.path)}")
    for batch, difference in report.differences.items():
        typer.echo(f"parity, batch {batch:>2}: largest difference of a logit {difference:.2e} (bound {atol:g})")
    if scored_on is not None:
        faces, title = scored_on
        for path in (checkpoint, output):
            score = evaluate(open_classifier(path, device="cpu"), faces)
            typer.echo(f"{path.name}: accuracy {100 * score.accuracy:.2f} (n = {score.n}, {title})")


def _faces(checkpoint: Path, data: Path, split: str) -> tuple[ImageSet, str]:
    """Read what is scored on, and name it: before the export, so that a mistake leaves no file."""
    from training.checkpoint import read_info
    from training.data.datasets import SPLITS, at, load, relabel
    from training.data.locate import locate

    if split not in SPLITS:
        raise typer.BadParameter(f"{split!r} is none of {', '.join(SPLITS)}", param_hint="--split")
    contract = read_info(checkpoint).contract
    if contract is None:
        raise CheckpointError(f"{checkpoint} is an encoder alone: it can be neither scored nor exported")
    root = locate([data]).need_faces()
    faces = load(root, split, img_size=contract.img_size, color_mode=contract.color_mode)
    reader, _ = at(root)
    votes = ", majority" if reader.name.startswith("ferplus") else ""
    return relabel(faces, contract.labels), f"{reader.title} {split}{votes}"
