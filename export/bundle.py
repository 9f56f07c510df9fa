"""Make a checkpoint one of the models that ship with the program, every figure measured on the way.

    python -m export.bundle RUN/finetune/best.safetensors --name NAME --role fast --default --data ferplus/

writes, below the working tree, once all of it is made and checked:

    training/weights/NAME.safetensors      16-bit weights, from which further training starts (`init = "bundled:NAME"`),
                                           unless it is an ensemble
    fer_app/weights/NAME.onnx              exported from exactly those, parity checked, accuracy measured again; it
                                           computes in 32 bits, and keeps its weights in 16
    fer_app/weights/NAME.int8.onnx         the same in 8 bits, for CPUs; with --no-int8 there is none
    fer_app/weights/NAME.fp16.onnx         the same in 16 bits, for GPUs; with --fp16
    fer_app/weights/manifest.toml          the entry with digests and figures
    fer_app/weights/NAME.md                the measured part of the model card, between its two marks
    docs/images/NAME-*                     confusion matrix, reliability diagram, a portrait with what is said of it

The 16-bit checkpoint is the source of everything else, so that the ONNX file can be made again from the repository.
With `--into FOLDER` the same files are written below that folder, and the working tree stays as it is.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import torch
import typer

from export.half_storage import keep_in_16_bits
from export.lineage import as_json, lineage, without_paths
from export.model_card import draw_pictures, marked, measure, write_card
from export.onnx_export import size_of
from export.threshold import with_threshold
from export.variants import Faces, Variant, export_variants
from fer_app.contract import Precision
from fer_app.errors import ExportError, FerError
from fer_app.model_choice import MOST_LOST
from fer_app.model_store import DEFAULT, ROLES
from training.checkpoint import CheckpointInfo, load_checkpoint, recipe_digest, save_checkpoint
from training.data.ferplus import load_ferplus
from training.data.locate import locate
from training.evaluation import evaluate, file_sha256, open_classifier
from training.metrics import ClassificationReport

LARGEST_FILE: Final = 45e6
"""No file of a bundled model has more bytes."""
LARGEST_FAST: Final = 10e6
"""Nor has the smallest file of the model for `fast`."""

_LARGEST_DROP = 0.0005  # of accuracy, from the checkpoint to the ONNX file: rounding may move a face or two


@dataclass(frozen=True)
class Bundle:
    """A model that was bundled.

    Attributes:
        root: the working tree.
        name: of the model.
        role: one of `ROLES`, or empty.
        default: whether users get it who name none.
        info: what its checkpoint says.
        report: what the float32 file scored on FERPlus Valid.
        full: the float32 file.
        others: the same in other arithmetics.
    """

    root: Path
    name: str
    role: str
    default: bool
    info: CheckpointInfo
    report: ClassificationReport
    full: Variant
    others: tuple[Variant, ...]


def bundle(
    checkpoint: Path,
    name: str,
    data: Path,
    root: Path,
    *,
    role: str = "",
    default: bool,
    also: tuple[Precision, ...] = ("int8",),
    most_lost: float = MOST_LOST,
    bench_s: float = 15,
) -> Bundle:
    """Write all files of a bundled model; nothing is written unless all of it could be made.

    Args:
        checkpoint: a classifier, in the folder of the run that made it: its card tells of that run.
        name: of the model and its files.
        data: FERPlus; Valid is what is reported.
        root: the working tree.
        role: one of `ROLES`, or empty for none.
        default: whether it is the model that users get who name none.
        also: other arithmetics than float32.
        most_lost: of accuracy, a share, by each of the others.
        bench_s: seconds for measuring how fast the files are.

    Raises:
        ExportError: an ONNX file scores worse than the checkpoint, a file is too large, there is no such role, the
            card has no marks, or the checkpoint comes from what it would replace.
        FerError: as reading, scoring and exporting raise.
    """
    if role not in ("", *ROLES) or name in ROLES:
        raise ExportError(f"role is {role!r}, name is {name!r}: a role is one of {', '.join(ROLES)}, and no name is")
    weights_folder = root / "fer_app" / "weights"
    card = weights_folder / f"{name}.md"
    marked(card)
    faces = _faces(data, calibrate="int8" in also)
    weights, info = load_checkpoint(checkpoint)
    runs = lineage(checkpoint, info)
    if any(_would_be(word, name, role, default=default) for step in runs for word in step.origins):
        raise ExportError(
            f"{checkpoint} comes from a bundled model that it would replace: train, or join, a copy of its weights, or "
            "name it otherwise"
        )
    info = dataclasses.replace(_portable(info), lineage=as_json(runs))
    kept = root / "training" / "weights"
    kept.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made_in:
        compact = Path(made_in) / f"{name}.safetensors"
        save_checkpoint(compact, weights, info, dtype=torch.float16)
        info = with_threshold(compact, info, faces.choice)
        save_checkpoint(compact, weights, info, dtype=torch.float16)
        before = evaluate(open_classifier(compact, device="cpu"), faces.scored)
        targets = {precision: Path(made_in) / _file(name, precision) for precision in ("fp32", *also)}
        full, *others = export_variants(compact, targets, faces=faces, most_lost=most_lost)
        full = _kept_in_16_bits(full, compact)
        assert full.report is not None
        if full.report.accuracy < before.accuracy - _LARGEST_DROP:
            raise ExportError(
                f"{full.path.name} scores {full.report.accuracy:.4f}, its checkpoint {before.accuracy:.4f}"
            )
        _refuse_large([full, *others], role)
        info = dataclasses.replace(info, contract=full.contract)
        save_checkpoint(compact, weights, info, dtype=torch.float16)
        measured = measure(name, runs, info.metrics.get("dev_accuracy"), [full, *others], faces.scored, bench_s=bench_s)
        draw_pictures(measured, root / "docs" / "images")
        write_card(measured, card)
        shutil.copyfile(compact, kept / compact.name)
        for file in targets.values():
            shutil.copyfile(file, weights_folder / file.name)
    full, *others = (dataclasses.replace(file, path=weights_folder / file.path.name) for file in (full, *others))
    assert full.report is not None
    made = Bundle(root, name, role, default, info, full.report, full, tuple(others))
    _write_manifest(made)
    return made


def _would_be(word: str, name: str, role: str, *, default: bool) -> bool:
    """Whether what a recipe calls by a word is afterwards the model that is being bundled."""
    kind, _, called = word.partition(":")
    return kind == "bundled" and (called == name or (called in ("", DEFAULT) and default) or called == role != "")


def _kept_in_16_bits(full: Variant, compact: Path) -> Variant:
    """Halve the float32 file, which computes the same afterwards."""
    keep_in_16_bits(full.path, load_checkpoint(compact)[0])
    method = f"{full.method}; its weights are kept in the 16 bits that they have"
    return dataclasses.replace(full, method=method, bytes=size_of(full.path), sha256=file_sha256(full.path))


def _faces(data: Path, *, calibrate: bool) -> Faces:
    base = locate([data]).need_ferplus()
    return Faces(
        name="ferplus_valid",
        title="FERPlus valid, majority",
        scored=load_ferplus(base, "valid"),
        calibration=load_ferplus(base, "train-main") if calibrate else None,
        choice=load_ferplus(base, "dev"),
    )


def _portable(info: CheckpointInfo) -> CheckpointInfo:
    """Return what a checkpoint says without any path of the machine that trained it, and with the digest of that."""
    assert info.contract is not None
    recipe = without_paths(info.recipe)
    if recipe == info.recipe:
        return info
    contract = info.contract.replace(recipe_sha256=recipe_digest(recipe))
    return dataclasses.replace(info, recipe=recipe, contract=contract)


def _file(name: str, precision: Precision) -> str:
    return f"{name}.onnx" if precision == "fp32" else f"{name}.{precision}.onnx"


def _refuse_large(files: list[Variant], role: str) -> None:
    """Refuse files that are too large to ship.

    Raises:
        ExportError: one is.
    """
    largest, smallest = max(files, key=lambda file: file.bytes), min(files, key=lambda file: file.bytes)
    for file, limit in ((largest, LARGEST_FILE), *([(smallest, LARGEST_FAST)] if role == "fast" else [])):
        if file.bytes > limit:
            raise ExportError(
                f"{file.path.name} has {file.bytes / 1e6:.1f} MB, more than the {limit / 1e6:.0f} MB of "
                f"{f'the smallest file of the role {role}' if limit == LARGEST_FAST else 'any bundled file'}"
            )


def make_scratch(folder: Path, tree: Path, name: str) -> None:
    """Make a folder that `bundle` can take for the working tree, with its manifest and the model's card.

    A manifest that is there stays: it may tell of another model that was bundled into the folder.

    Raises:
        ExportError: the tree has no manifest or no such card, or the folder cannot be written.
    """
    try:
        for place in ("fer_app/weights", "training", "docs/images"):
            (folder / place).mkdir(parents=True, exist_ok=True)
        kept, made = tree / "fer_app" / "weights", folder / "fer_app" / "weights"
        shutil.copyfile(kept / f"{name}.md", made / f"{name}.md")
        if not (made / "manifest.toml").exists():
            shutil.copyfile(kept / "manifest.toml", made / "manifest.toml")
    except OSError as error:
        raise ExportError(f"cannot make {folder} look like {tree.resolve()}: {error}") from error


def _write_manifest(made: Bundle) -> None:
    """Replace the model's entry in the manifest, or add it; default and role are taken from whoever had them."""
    path = made.root / "fer_app" / "weights" / "manifest.toml"
    head, *blocks = re.split(r"(?m)^(?=\[\[(?:model|detector)\]\])", path.read_text(encoding="utf-8"))
    blocks = [block.rstrip("\n") + "\n\n" for block in blocks]
    former = next((place for place, block in enumerate(blocks) if f'\nname = "{made.name}"\n' in block), None)
    if former is not None:
        del blocks[former]
    if made.default:
        blocks = [re.sub(r"(?m)^default = true\n", "", block) for block in blocks]
    if made.role:
        blocks = [re.sub(rf'(?m)^role = "{made.role}"\n', "", block) for block in blocks]
    stages = made.info.recipe["stages"]
    photos = "pretrain" in stages and "photos" in made.info.recipe["pretrain"]["images"]
    lines = [
        "[[model]]",
        f'name = "{made.name}"',
        f'file = "{made.full.path.name}"',
        f'sha256 = "{made.full.sha256}"',
        f'contract_sha256 = "{made.full.contract.digest}"',
        f'license = "{made.full.contract.license}"',
        *([f'role = "{made.role}"'] if made.role else []),
        *(["default = true"] if made.default else []),
        f'training_data = "{"general photos, " if photos else ""}FERPlus Train"',
        f'card = "{made.name}.md"',
        f'date = "{datetime.date.today()}"',
        "[model.metrics]",
        *(f"{key} = {value}" for key, value in made.full.contract.metrics.items()),
    ]
    for other in made.others:
        lines += [
            "",
            "[[model.variant]]",
            f'precision = "{other.precision}"',
            f'file = "{other.path.name}"',
            f'sha256 = "{other.sha256}"',
            f'contract_sha256 = "{other.contract.digest}"',
            "[model.variant.metrics]",
            *(f"{key} = {value}" for key, value in other.contract.metrics.items()),
        ]
    # The default model is told first, the others in the order in which they came.
    models = [place for place, block in enumerate(blocks) if block.startswith("[[model]]")]
    last = models[-1] + 1 if models else 0
    blocks.insert(0 if made.default else last if former is None else former, "\n".join(lines) + "\n\n")
    path.write_text(head + "".join(blocks).rstrip("\n") + "\n", encoding="utf-8")


def main(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors classifier checkpoint, in its run's folder.")],
    name: Annotated[str, typer.Option("--name", help="Of the model and its files.")],
    data: Annotated[Path, typer.Option("--data", help="FERPlus folder or archive.")],
    root: Annotated[Path, typer.Option("--root", help="The working tree.")] = Path(),
    into: Annotated[
        Path | None, typer.Option("--into", metavar="FOLDER", help="Write there, and leave the working tree alone.")
    ] = None,
    role: Annotated[str, typer.Option("--role", help="fast or accurate: another name for the model.")] = "",
    default: Annotated[bool, typer.Option("--default", help="Users who name no model get this one.")] = False,
    no_int8: Annotated[bool, typer.Option("--no-int8", help="Make no 8-bit file.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Make a 16-bit file too.")] = False,
) -> None:
    """Make a checkpoint a bundled model: weights, ONNX files, manifest, pictures, card."""
    also: tuple[Precision, ...] = (*(() if no_int8 else ("int8",)), *(("fp16",) if fp16 else ()))
    try:
        if into is not None:
            make_scratch(into, root, name)
        made = bundle(checkpoint, name, data, into or root, role=role, default=default, also=also)
    except FerError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    for file in (made.full, *made.others):
        assert file.report is not None
        typer.echo(
            f"{file.path}  {file.bytes / 1e6:.1f} MB, accuracy {100 * file.report.accuracy:.2f} (n = {file.report.n})"
        )


if __name__ == "__main__":
    typer.run(main)
