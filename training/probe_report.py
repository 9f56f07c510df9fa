"""What `fer probe` does: frozen features of a labelled set, classified by their neighbours and by one linear layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fer_app.contract import Contract
from training.data.datasets import Contempt, at, load
from training.data.image_set import ImageSet
from training.data.locate import locate
from training.data.splits import Split, share_faces
from training.evaluation import crops_of, file_sha256, hard_targets
from training.fingerprint import faces_digest
from training.frozen_features import Feature, FrozenEncoder
from training.metrics import ClassificationReport, classification_report
from training.probes import choose_linear, knn_probs

ScoredSplit = Literal["valid", "test"]


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """What is probed and how; `fer probe`'s options of the same names."""

    checkpoint: Path
    data: Path
    split: ScoredSplit = "valid"
    drop_contempt: bool = False
    k: int = 20
    temperature: float = 0.07
    untrained: bool = False
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """One probe on one kind of feature.

    Attributes:
        feature: see `training.frozen_features.FrozenEncoder`.
        probe: `knn` or `linear`.
        strength: of the linear probe's penalty; None of the other.
        figures: on the scored split.
    """

    feature: Feature
    probe: Literal["knn", "linear"]
    strength: float | None
    figures: ClassificationReport


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """Probes of one checkpoint.

    Attributes:
        options: how.
        method: what pre-trained it, `fine-tuned` for a classifier, or `none` for random weights.
        width: numbers a feature.
        data_set: name of the set.
        title: what people call it.
        n: faces of `train-main`, `dev` and the scored split.
        sha256: of the checkpoint's file, and of names, classes and labels of the scored faces.
        rows: a row a feature and probe.
        caution: says in one line that the network was trained on the labels of scored faces; None where it was not.
    """

    options: ProbeOptions
    method: str
    width: int
    data_set: str
    title: str
    n: dict[Split, int]
    sha256: tuple[str, str]
    rows: tuple[ProbeRow, ...]
    caution: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what `fer probe --json` prints."""
        options = self.options
        return {
            "method": self.method,
            "data_set": self.data_set,
            "split": options.split,
            "votes": "majority",
            "drop_contempt": options.drop_contempt,
            "n": self.n[options.split],
            "n_train": self.n["train-main"],
            "n_dev": self.n["dev"],
            "k": options.k,
            "temperature": options.temperature,
            "feature_width": self.width,
            "checkpoint_sha256": self.sha256[0],
            "faces_sha256": self.sha256[1],
            "probes": [
                {"feature": row.feature, "probe": row.probe, "strength": row.strength, **row.figures.summary()}
                for row in self.rows
            ],
        }

    def lines(self) -> list[str]:
        """Return what `fer probe` prints, in per cent."""
        options, split = self.options, self.options.split
        probes = {"knn": f"k-NN ({options.k}, tau {options.temperature:g})", "linear": "linear"}
        counts = ", ".join(f"{part} n = {count}" for part, count in self.n.items())
        lines = [
            f"{self.title}: {counts}",
            f"pre-training: {self.method}; features of {self.width} numbers",
            f"{'feature':9}{'probe':24}{'accuracy':>10}{'95 %':>15}{'mean class':>12}",
        ]
        for row in self.rows:
            low, high = (100 * end for end in row.figures.accuracy_ci95)
            words = probes[row.probe] + (f", L2 {row.strength:g}" if row.strength is not None else "")
            lines.append(
                f"{row.feature:9}{words:24}{100 * row.figures.accuracy:>10.2f}{f'{low:.1f} - {high:.1f}':>15}"
                f"{100 * row.figures.mean_class_accuracy:>12.2f}"
            )
        return [*lines, f"checkpoint sha256 {self.sha256[0]}", f"{split} faces sha256 {self.sha256[1]}"]


def run_probe(options: ProbeOptions) -> ProbeReport:
    """Probe a checkpoint: fit on `train-main`, choose the linear penalty on `dev`, score once.

    Nothing is drawn at random: on one machine the same files give the same figures.

    Raises:
        FerError: of the checkpoint, the data or the settings.
    """
    network = FrozenEncoder(options.checkpoint, options.device, untrained=options.untrained)
    root = locate([options.data]).need_faces()
    parts: dict[Split, ImageSet] = {
        split: _faces(root, split, network.contract, options) for split in ("train-main", "dev", options.split)
    }
    train, dev, scored = (parts[split] for split in ("train-main", "dev", options.split))
    labels, dev_labels, targets = hard_targets(train), hard_targets(dev), hard_targets(scored)
    known, chooses, asked = (network(crops_of(part)) for part in (train, dev, scored))
    names = scored.class_names
    rows = []
    for feature in network.features:
        own = known[feature]
        probs = knn_probs(own, labels, asked[feature], len(names), k=options.k, temperature=options.temperature)
        layer = choose_linear(own, labels, chooses[feature], dev_labels, len(names))
        rows += [
            ProbeRow(feature=feature, probe="knn", strength=None, figures=classification_report(probs, targets, names)),
            ProbeRow(
                feature=feature,
                probe="linear",
                strength=layer.strength,
                figures=classification_report(layer.probs(asked[feature]), targets, names),
            ),
        ]
    return ProbeReport(
        options=options,
        method=_method(network, untrained=options.untrained),
        width=known[network.features[0]].shape[1],
        data_set=at(root)[0].name,
        title=at(root)[0].title,
        n={split: len(part) for split, part in parts.items()},
        sha256=(file_sha256(options.checkpoint), faces_digest(scored)),
        rows=tuple(rows),
        caution=_trained_on(network, options),
    )


def _faces(root: Path, split: Split, contract: Contract, options: ProbeOptions) -> ImageSet:
    contempt: Contempt = "drop" if options.drop_contempt else "keep"
    return load(root, split, img_size=contract.img_size, color_mode=contract.color_mode, contempt=contempt)


def _method(network: FrozenEncoder, *, untrained: bool) -> str:
    if untrained:
        return "none"
    if network.info.kind == "classifier":
        return "fine-tuned"
    return str((network.info.recipe.get("pretrain") or {}).get("method", "unknown"))


def _trained_on(network: FrozenEncoder, options: ProbeOptions) -> str | None:
    """Return a caution where a classifier's recipe trained on the scored split; a checkpoint does not keep the set."""
    trained = network.info.finetuned_on
    if network.info.kind != "classifier" or trained is None or not share_faces(options.split, trained):
        return None
    return (
        f"{options.checkpoint.name} was trained on {trained}, which has faces of {options.split}: "
        "if this is the set that it was trained on, these are no figures for new faces"
    )
