"""`fer export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fer_app.errors import CheckpointError, DatasetError, ExportError, InputError

if TYPE_CHECKING:
    from export.engine_file import Batches
    from export.variants import Faces
    from fer_app.contract import Precision
    from training.data.image_set import ImageSet
    from training.data.splits import Split


def export(
    model: Annotated[
        str,
        typer.Argument(metavar="NAME|PATH", help="A .safetensors classifier checkpoint, or a bundled model's name."),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A file ending in .onnx, or a folder for all precisions and a report."),
    ],
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            metavar="NAME",
            help="fp32, fp16 or int8, of TensorRT bf16 too; several with commas  [default: fp32]",
        ),
    ] = None,
    output_format: Annotated[
        Literal["onnx", "tensorrt"], typer.Option("--format", help="ONNX files, or engines for this machine's GPU.")
    ] = "onnx",
    batches: Annotated[
        str, typer.Option("--batches", metavar="A,B,C", help="Least, usual and largest batch of an engine.")
    ] = "1,32,128",
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="The GPU that engines are built on: auto or cuda:N.")
    ] = "auto",
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
    """Export a checkpoint to ONNX or TensorRT, prove that each file computes the same, and measure it again."""
    from export.export_report import table, write_report
    from export.variants import FILES, export_variants
    from training.checkpoint import checkpoint_at
    from training.evaluation import file_sha256

    checkpoint = checkpoint_at(model)
    if output_format == "tensorrt":
        _export_engines(checkpoint, output, precision or ["fp32"], batches, device, data, split, max_drop)
        return
    precisions = _precisions(precision or ["fp32"], list(FILES))
    single = output.suffix.lower() == ".onnx"
    if single and len(precisions) > 1:
        raise typer.BadParameter("several precisions need a folder", param_hint="--output")
    faces = None if data is None else _faces(checkpoint, data, split, calibrate="int8" in precisions)
    if not single:
        _make_folder(output)
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


def _export_engines(
    checkpoint: Path,
    folder: Path,
    precision: list[str],
    batches: str,
    device: str,
    data: Path | None,
    split: str,
    max_drop: float,
) -> None:
    """Do what `--format tensorrt` asks for."""
    from export.tensorrt_export import ENGINES, engine_table, export_engines

    precisions = _precisions(precision, list(ENGINES))
    sizes = _batches(batches)
    if folder.suffix in (".onnx", ".engine"):
        raise typer.BadParameter("engines go into a folder, each with its contract", param_hint="--output")
    faces = None if data is None else _faces(checkpoint, data, split, calibrate="int8" in precisions)
    engines = export_engines(
        checkpoint,
        folder,
        precisions,
        batches=sizes,
        device=device,
        faces=faces,
        most_lost=max_drop / 100,
        tell=lambda line: typer.echo(line, err=True),
    )
    typer.echo(engine_table(engines))
    for engine in engines:
        typer.echo(f"{engine.path}  sha256 {engine.record.sha256}")


def _batches(text: str) -> Batches:
    from export.engine_file import Batches

    try:
        return Batches.parse(text)
    except InputError as error:
        raise typer.BadParameter(str(error), param_hint="--batches") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error


def _precisions(asked: list[str], known: list[Precision]) -> list[Precision]:
    """Read names with or without commas, each once, in one order."""
    names = {name.strip() for text in asked for name in text.split(",")}
    if unknown := sorted(names.difference(known)):
        raise typer.BadParameter(f"{', '.join(unknown)}: none of {', '.join(known)}", param_hint="--precision")
    return [name for name in known if name in names]


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
