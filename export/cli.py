"""`fer export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_app.errors import CheckpointError, DatasetError, ExportError

if TYPE_CHECKING:
    from export.variants import Faces
    from fer_app.contract import Precision
    from training.data.image_set import ImageSet
    from training.data.splits import Split


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors classifier checkpoint.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A file ending in .onnx, or a folder for all precisions and a report."),
    ],
    precision: Annotated[
        list[str] | None,
        typer.Option("--precision", metavar="NAME", help="fp32, fp16 or int8, or several with commas  [default: fp32]"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Labelled faces, as fer eval takes them: score every file; int8 needs them."),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="train, train-main, dev, valid, test or train+valid.")
    ] = "valid",
    max_drop: Annotated[
        float, typer.Option("--max-drop", min=0, help="Largest loss of accuracy that is accepted, in points.")
    ] = 0.5,
    atol: Annotated[
        float, typer.Option("--atol", help="Largest difference of a logit that is accepted for fp32.")
    ] = 1e-4,
) -> None:
    """Export a checkpoint to ONNX, prove that each file computes the same, and measure it again."""
    from export.export_report import table, write_report
    from export.variants import FILES, export_variants
    from training.evaluation import file_sha256

    precisions = _precisions(precision or ["fp32"])
    single = output.suffix.lower() == ".onnx"
    if single and len(precisions) > 1:
        raise typer.BadParameter("several precisions need a folder", param_hint="--output")
    faces = None if data is None else _faces(checkpoint, data, split, calibrate="int8" in precisions)
    if not single:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExportError(f"cannot write {output}: {error.strerror}") from error
    targets = {one: output if single else output / FILES[one] for one in precisions}
    variants = export_variants(
        checkpoint,
        targets,
        faces=faces,
        most_lost=max_drop / 100,
        tolerance=atol,
        tell=lambda line: typer.echo(line, err=True),
    )
    if not single:
        write_report(output, variants, str(checkpoint), file_sha256(checkpoint), faces)
    typer.echo(table(variants))
    if faces is not None:
        typer.echo(f"\nscored on {faces.title}, n = {len(faces.scored.names)}")
    for variant in variants:
        typer.echo(f"{variant.path}  sha256 {variant.sha256}")


def _precisions(asked: list[str]) -> list[Precision]:
    """Read names with or without commas, each once, in one order."""
    from export.variants import FILES

    names = {name.strip() for text in asked for name in text.split(",")}
    if unknown := sorted(names - FILES.keys()):
        raise typer.BadParameter(f"{', '.join(unknown)}: none of {', '.join(FILES)}", param_hint="--precision")
    return [name for name in FILES if name in names]


def _faces(checkpoint: Path, data: Path, split: str, *, calibrate: bool) -> Faces:
    """Read what is scored on, and what calibrates: before the export, so that a mistake leaves no file."""
    from export.variants import Faces
    from training.checkpoint import read_info
    from training.data.datasets import SPLITS, at, load, relabel
    from training.data.locate import locate
    from training.data.splits import share_faces

    known = next((one for one in SPLITS if one == split), None)
    if known is None:
        raise typer.BadParameter(f"{split!r} is none of {', '.join(SPLITS)}", param_hint="--split")
    contract = read_info(checkpoint).contract
    if contract is None:
        raise CheckpointError(f"{checkpoint} is an encoder alone: it can be neither scored nor exported")
    root = locate([data]).need_faces()
    if calibrate and any(share_faces(known, other) for other in ("train-main", "dev")):
        raise DatasetError(
            f"int8 is calibrated on train-main and chosen on dev: it cannot be scored on {split} as well"
        )

    def read(one: Split) -> ImageSet:
        return relabel(load(root, one, img_size=contract.img_size, color_mode=contract.color_mode), contract.labels)

    reader, _ = at(root)
    votes = ", majority" if reader.name.startswith("ferplus") else ""
    return Faces(
        name=f"{reader.name}_{split}".replace("-", "_").replace("+", "_"),
        title=f"{reader.title} {split}{votes}",
        scored=read(known),
        calibration=read("train-main") if calibrate else None,
        choice=read("dev") if calibrate else None,
    )
