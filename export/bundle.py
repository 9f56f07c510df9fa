"""Make a checkpoint one of the models that ship with the program, every figure measured on the way.

    python -m export.bundle runs/hybrid/finetune/best.safetensors --name mimic_hybrid_ferplus --data ferplus/ --default

writes, below the working tree:

    training/weights/NAME.safetensors      16-bit weights, from which further training starts (`init = "bundled"`)
    fer_app/weights/NAME.onnx              exported from exactly those, parity checked, accuracy measured again
    fer_app/weights/manifest.toml          the entry with digests and figures
    docs/images/NAME-confusion.png         the confusion matrix on FERPlus Valid
    docs/models/NAME.md                    the measured part of the model card, between its two marks

The 16-bit checkpoint is the source of everything else, so that the ONNX file can be made again from the repository.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

from export.onnx_export import ExportReport, export_onnx
from fer_app.contract import Contract
from fer_app.errors import ExportError, FerError
from training.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from training.data.ferplus import load_ferplus
from training.data.image_set import ImageSet
from training.data.locate import locate
from training.evaluation import evaluate, file_sha256, open_classifier
from training.metrics import ClassificationReport
from training.plots import draw_confusion

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_LARGEST_DROP = 0.0005  # of accuracy, from the checkpoint to the ONNX file: rounding may move a face or two


@dataclass(frozen=True)
class Bundle:
    """A model about to be bundled: its files below `root`, and what was measured."""

    root: Path
    name: str
    default: bool
    info: CheckpointInfo
    contract: Contract
    report: ClassificationReport
    export: ExportReport

    @property
    def weights(self) -> Path:
        """The 16-bit checkpoint."""
        return self.root / "training" / "weights" / f"{self.name}.safetensors"


def bundle(checkpoint: Path, name: str, data: Path, root: Path, *, default: bool) -> Bundle:
    """Write all files of a bundled model.

    Args:
        checkpoint: a classifier.
        name: of the model and its files.
        data: FERPlus; Valid is what is reported.
        root: the working tree.
        default: whether it is the model that users get who name none.

    Raises:
        ExportError: the ONNX file scores worse than the checkpoint, or the card has no marks.
        FerError: as reading, scoring and exporting raise.
    """
    card = root / "docs" / "models" / f"{name}.md"
    if not card.is_file() or not _marked(card.read_text(encoding="utf-8")):
        raise ExportError(f"{card} must exist and hold {BEGIN} and {END}; the measured part goes between them")
    faces = load_ferplus(locate([data]).need_ferplus(), "valid")
    weights, info = load_checkpoint(checkpoint)
    compact = root / "training" / "weights" / f"{name}.safetensors"
    compact.parent.mkdir(exist_ok=True)
    save_checkpoint(compact, weights, info, dtype=torch.float16)
    report = _score(compact, faces)
    assert info.contract is not None  # scoring it would have failed
    contract = info.contract.replace(
        metrics={
            "ferplus_valid_accuracy": round(report.accuracy, 5),
            "ferplus_valid_mean_class_accuracy": round(report.mean_class_accuracy, 5),
            "ferplus_valid_macro_f1": round(report.macro_f1, 5),
            "ferplus_valid_ece": round(report.ece, 5),
        }
    )
    info = dataclasses.replace(info, contract=contract)
    save_checkpoint(compact, weights, info, dtype=torch.float16)
    onnx_file = root / "fer_app" / "weights" / f"{name}.onnx"
    exported = export_onnx(compact, onnx_file)
    served = _score(onnx_file, faces)
    if served.accuracy < report.accuracy - _LARGEST_DROP:
        raise ExportError(f"{onnx_file} scores {served.accuracy:.4f}, its checkpoint {report.accuracy:.4f}")
    made = Bundle(root, name, default, info, contract, served, exported)
    _write_manifest(made)
    picture = root / "docs" / "images" / f"{name}-confusion.png"
    draw_confusion(served, picture, title=f"{name}, FERPlus Valid (majority), n = {served.n}")
    text = card.read_text(encoding="utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    card.write_text(f"{text[:begin]}\n{_measured(made)}{text[end:]}", encoding="utf-8")
    return made


def _marked(text: str) -> bool:
    return BEGIN in text and END in text and text.index(BEGIN) < text.index(END)


def _score(model: Path, faces: ImageSet) -> ClassificationReport:
    return evaluate(open_classifier(model, device="cpu"), faces)


def _write_manifest(made: Bundle) -> None:
    """Replace the model's entry in the manifest, or add it; a new default takes the place of the old one."""
    path = made.root / "fer_app" / "weights" / "manifest.toml"
    head, *blocks = re.split(r"(?m)^(?=\[\[)", path.read_text(encoding="utf-8"))
    blocks = [block for block in blocks if f'\nname = "{made.name}"\n' not in block]
    if made.default:
        blocks = [re.sub(r"(?m)^default = true\n", "", block) for block in blocks]
    stages = made.info.recipe["stages"]
    photos = "pretrain" in stages and "photos" in made.info.recipe["pretrain"]["images"]
    lines = [
        "[[model]]",
        f'name = "{made.name}"',
        f'file = "{made.export.path.name}"',
        f'sha256 = "{file_sha256(made.export.path)}"',
        f'contract_sha256 = "{made.contract.digest}"',
        f'license = "{made.contract.license}"',
        *(["default = true"] if made.default else []),
        f'training_data = "{"Tiny ImageNet photos, " if photos else ""}FERPlus Train"',
        f'card = "docs/models/{made.name}.md"',
        "[model.metrics]",
        *(f"{key} = {value}" for key, value in made.contract.metrics.items()),
    ]
    path.write_text(head + "\n".join(lines) + "\n\n" + "".join(blocks), encoding="utf-8")


def _measured(made: Bundle) -> str:
    """Return the card's measured part."""
    report, info, export = made.report, made.info, made.export
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
        ("temperature (fitted on `dev`)", f"{made.contract.temperature:.3f}"),
        ("file", f"`fer_app/weights/{export.path.name}`, {export.bytes / 1e6:.1f} MB, float32"),
        ("sha256", f"`{file_sha256(export.path)}`"),
        ("recipe sha256", f"`{made.contract.recipe_sha256}`"),
        ("largest difference of a logit, torch against ONNX Runtime", f"{max(export.differences.values()):.1e}"),
    ]
    lines = ["", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows), ""]
    lines += ["| class | faces | recall % | precision % | F1 % |", "|---|---|---|---|---|"]
    for k, label in enumerate(report.labels):
        figures = (report.recall[k], report.precision[k], report.f1[k])
        cells = " | ".join("-" if math.isnan(value) else f"{100 * value:.1f}" for value in figures)
        lines.append(f"| {label} | {report.confusion[k].sum()} | {cells} |")
    lines += ["", f"![confusion matrix on FERPlus Valid](../images/{made.name}-confusion.png)", "", ""]
    return "\n".join(lines)


def main(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors classifier checkpoint.")],
    name: Annotated[str, typer.Option("--name", help="Of the model and its files.")],
    data: Annotated[Path, typer.Option("--data", help="FERPlus folder or archive.")],
    root: Annotated[Path, typer.Option("--root", help="The working tree.")] = Path(),
    default: Annotated[bool, typer.Option("--default", help="Users who name no model get this one.")] = False,
) -> None:
    """Make a checkpoint a bundled model: weights, ONNX file, manifest, confusion matrix, card."""
    try:
        made = bundle(checkpoint, name, data, root, default=default)
    except FerError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{made.export.path}  accuracy {100 * made.report.accuracy:.2f} (n = {made.report.n})")


if __name__ == "__main__":
    typer.run(main)
