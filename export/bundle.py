"""Make a checkpoint one of the models that ship with the program, every figure measured on the way.

    python -m export.bundle runs/hybrid/finetune/best.safetensors --name mimic_hybrid_ferplus --data ferplus/ --default

writes, below the working tree:

    training/weights/NAME.safetensors      16-bit weights, from which further training starts (`init = "bundled"`)
    fer_app/weights/NAME.onnx              exported from exactly those, parity checked, accuracy measured again
    fer_app/weights/NAME.int8.onnx         the same in 8 bits, for CPUs; with --no-int8 there is none
    fer_app/weights/manifest.toml          the entry with digests and figures
    docs/images/NAME-confusion.png         the confusion matrix on FERPlus Valid
    docs/models/NAME.md                    the measured part of the model card, between its two marks

The 16-bit checkpoint is the source of everything else, so that the ONNX file can be made again from the repository.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

from export.threshold import asserted_in_words, with_threshold
from export.variants import Faces, Variant, export_variants
from fer_app.contract import Precision
from fer_app.errors import ExportError, FerError
from fer_app.model_choice import MOST_LOST
from training.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from training.data.ferplus import load_ferplus
from training.data.locate import locate
from training.evaluation import evaluate, open_classifier
from training.metrics import ClassificationReport
from training.plots import draw_confusion

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_LARGEST_DROP = 0.0005  # of accuracy, from the checkpoint to the ONNX file: rounding may move a face or two


@dataclass(frozen=True)
class Bundle:
    """A model about to be bundled.

    Attributes:
        root: the working tree.
        name: of the model.
        default: whether users get it who name none.
        info: what its checkpoint says.
        report: what the float32 file scored on FERPlus Valid.
        full: the float32 file.
        others: the same in other arithmetics.
    """

    root: Path
    name: str
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
    default: bool,
    int8: bool = True,
    most_lost: float = MOST_LOST,
) -> Bundle:
    """Write all files of a bundled model.

    Args:
        checkpoint: a classifier.
        name: of the model and its files.
        data: FERPlus; Valid is what is reported.
        root: the working tree.
        default: whether it is the model that users get who name none.
        int8: whether to make the 8-bit file too.
        most_lost: of accuracy, a share, by the 8-bit file.

    Raises:
        ExportError: an ONNX file scores worse than the checkpoint, or the card has no marks.
        FerError: as reading, scoring and exporting raise.
    """
    card = root / "docs" / "models" / f"{name}.md"
    if not card.is_file() or not _marked(card.read_text(encoding="utf-8")):
        raise ExportError(f"{card} must exist and hold {BEGIN} and {END}; the measured part goes between them")
    base = locate([data]).need_ferplus()
    faces = Faces(
        name="ferplus_valid",
        title="FERPlus valid, majority",
        scored=load_ferplus(base, "valid"),
        calibration=load_ferplus(base, "train-main") if int8 else None,
        choice=load_ferplus(base, "dev"),
    )
    weights, info = load_checkpoint(checkpoint)
    compact = root / "training" / "weights" / f"{name}.safetensors"
    compact.parent.mkdir(exist_ok=True)
    save_checkpoint(compact, weights, info, dtype=torch.float16)
    info = with_threshold(compact, info, faces.choice)
    save_checkpoint(compact, weights, info, dtype=torch.float16)
    before = evaluate(open_classifier(compact, device="cpu"), faces.scored)
    folder = root / "fer_app" / "weights"
    targets: dict[Precision, Path] = {"fp32": folder / f"{name}.onnx"}
    if int8:
        targets["int8"] = folder / f"{name}.int8.onnx"
    full, *others = export_variants(compact, targets, faces=faces, most_lost=most_lost)
    assert full.report is not None
    if full.report.accuracy < before.accuracy - _LARGEST_DROP:
        raise ExportError(f"{full.path} scores {full.report.accuracy:.4f}, its checkpoint {before.accuracy:.4f}")
    info = dataclasses.replace(info, contract=full.contract)
    save_checkpoint(compact, weights, info, dtype=torch.float16)
    made = Bundle(root, name, default, info, full.report, full, tuple(others))
    _write_manifest(made)
    picture = root / "docs" / "images" / f"{name}-confusion.png"
    draw_confusion(made.report, picture, title=f"{name}, FERPlus Valid (majority), n = {made.report.n}")
    text = card.read_text(encoding="utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    card.write_text(f"{text[:begin]}\n{_measured(made)}{text[end:]}", encoding="utf-8")
    return made


def _marked(text: str) -> bool:
    return BEGIN in text and END in text and text.index(BEGIN) < text.index(END)


def _write_manifest(made: Bundle) -> None:
    """Replace the model's entry in the manifest, or add it; a new default takes the place of the old one."""
    path = made.root / "fer_app" / "weights" / "manifest.toml"
    head, *blocks = re.split(r"(?m)^(?=\[\[(?:model|detector)\]\])", path.read_text(encoding="utf-8"))
    blocks = [block for block in blocks if f'\nname = "{made.name}"\n' not in block]
    if made.default:
        blocks = [re.sub(r"(?m)^default = true\n", "", block) for block in blocks]
    stages = made.info.recipe["stages"]
    photos = "pretrain" in stages and "photos" in made.info.recipe["pretrain"]["images"]
    lines = [
        "[[model]]",
        f'name = "{made.name}"',
        f'file = "{made.full.path.name}"',
        f'sha256 = "{made.full.sha256}"',
        f'contract_sha256 = "{made.full.contract.digest}"',
        f'license = "{made.full.contract.license}"',
        *(["default = true"] if made.default else []),
        f'training_data = "{"Tiny ImageNet photos, " if photos else ""}FERPlus Train"',
        f'card = "docs/models/{made.name}.md"',
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
    path.write_text(head + "\n".join(lines) + "\n\n" + "".join(blocks), encoding="utf-8")


def _measured(made: Bundle) -> str:
    """Return the card's measured part."""
    report, info, full = made.report, made.info, made.full
    table = info.recipe["finetune"]
    rows = [
        ("accuracy", f"**{100 * report.accuracy:.2f} %**"),
        ("mean class accuracy", f"{100 * report.mean_class_accuracy:.2f} %"),
        ("macro F1", f"{100 * report.macro_f1:.2f} %"),
        ("expected calibration error (15 bins)", f"{100 * report.ece:.2f} %"),
        ("faces scored", f"{report.n}"),
        ("data, split, labels", "FERPlus `label.csv`, Valid, majority, 8 classes"),
        ("crop, detector", "the data set's own 48 x 48 crop, none"),
        ("test-time tricks", "none"),
        ("chosen by", f"accuracy on `dev` ({100 * info.metrics['dev_accuracy']:.2f} %), after every epoch"),
        ("trained on", f"FERPlus {table['split']} ({table['votes']}), seed {info.recipe['seed']}"),
        ("epochs of fine-tuning, steps", f"{info.counters['epochs']} of {table['epochs']}, {info.counters['steps']}"),
        ("hours of fine-tuning", f"{info.counters['seconds'] / 3600:.2f}"),
        ("temperature (fitted on `dev`)", f"{full.contract.temperature:.3f}"),
        ("uncertain (chosen on `dev` for 95 % precision)", asserted_in_words(report)),
        ("file", f"`fer_app/weights/{full.path.name}`, {full.bytes / 1e6:.1f} MB, float32"),
        ("sha256", f"`{full.sha256}`"),
        ("recipe sha256", f"`{full.contract.recipe_sha256}`"),
        ("largest difference of a logit, torch against ONNX Runtime", f"{max(full.differences.values()):.1e}"),
        *(_variant_row(other) for other in made.others),
    ]
    lines = ["", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows), ""]
    lines += ["| class | faces | recall % | precision % | F1 % |", "|---|---|---|---|---|"]
    for k, label in enumerate(report.labels):
        figures = (report.recall[k], report.precision[k], report.f1[k])
        cells = " | ".join("-" if math.isnan(value) else f"{100 * value:.1f}" for value in figures)
        lines.append(f"| {label} | {report.confusion[k].sum()} | {cells} |")
    lines += ["", f"![confusion matrix on FERPlus Valid](../images/{made.name}-confusion.png)", "", ""]
    return "\n".join(lines)


def _variant_row(other: Variant) -> tuple[str, str]:
    assert other.report is not None
    figures = (
        f"accuracy {100 * other.report.accuracy:.2f} %",
        f"mean class accuracy {100 * other.report.mean_class_accuracy:.2f} %",
        asserted_in_words(other.report),
        f"{other.bytes / 1e6:.1f} MB",
        f"{other.ratio:.1f} times as fast as float32 on the CPU",
        f"`fer_app/weights/{other.path.name}`",
        f"sha256 `{other.sha256}`",
    )
    return f"in {other.precision}: {other.method}", ", ".join(figures)


def main(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors classifier checkpoint.")],
    name: Annotated[str, typer.Option("--name", help="Of the model and its files.")],
    data: Annotated[Path, typer.Option("--data", help="FERPlus folder or archive.")],
    root: Annotated[Path, typer.Option("--root", help="The working tree.")] = Path(),
    default: Annotated[bool, typer.Option("--default", help="Users who name no model get this one.")] = False,
    no_int8: Annotated[bool, typer.Option("--no-int8", help="Make no 8-bit file.")] = False,
) -> None:
    """Make a checkpoint a bundled model: weights, ONNX file, manifest, confusion matrix, card."""
    try:
        made = bundle(checkpoint, name, data, root, default=default, int8=not no_int8)
    except FerError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{made.full.path}  accuracy {100 * made.report.accuracy:.2f} (n = {made.report.n})")


if __name__ == "__main__":
    typer.run(main)
