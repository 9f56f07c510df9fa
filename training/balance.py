"""Rare classes said more often: a trained classifier's answers, evened out afterwards as far as that costs nothing.

Logit adjustment after the fact (Menon et al. 2021, arXiv:2007.07314, eq. 9) subtracts tau times the logarithm of each
class's share of the training faces from the logits. Here only rare classes are lifted, those with less than half of
an even share: among the others it would trade one confusion for another. What is added is a constant a class, and so
goes into the bias of the head: the network stays as large and as fast, and says the same wherever it runs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fer_app.errors import CheckpointError, InputError
from fer_app.preprocess import softmax
from models.ensemble import Ensemble
from training.checkpoint import CheckpointInfo, recipe_digest, recipe_word, save_checkpoint
from training.data.datasets import load, relabel
from training.data.locate import locate
from training.evaluation import TorchClassifier, crops_of, file_sha256, hard_targets, load_classifier
from training.metrics import ClassificationReport, classification_report
from training.selection import Selection, calibrated, held_out, scores

BALANCED: Final = "balanced"
"""What the name of a recipe ends in once its network was balanced, and where its header says how."""

TAUS: Final = tuple(step / 20 for step in range(21))
"""What is tried: 0 to 1."""


@dataclass(frozen=True)
class Balanced:
    """What balancing a classifier did.

    Attributes:
        info: what the new checkpoint says, its figures on `dev` among it.
        before: what `dev` made of it as it was.
        tau: how far rare classes are lifted; 0 changes nothing.
        lift: what every class's logit gained, (K,).
    """

    info: CheckpointInfo
    before: ClassificationReport
    tau: float
    lift: NDArray[np.float64]


def rarity(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what tau = 1 adds to each class's logit: the logarithm of how far it is below half of an even share.

    Args:
        shares: of the training faces, (K,), they sum to 1.

    Returns:
        (K,), at least 0; 0 also for a class without a face, of which the network knows nothing.
    """
    rare_below = 0.5 / len(shares)
    known = np.where(shares > 0, shares, 1.0)
    return -np.log(np.minimum(known / rare_below, 1.0))


def choose(
    logits: NDArray[np.float32], targets: NDArray[np.int64], labels: tuple[str, ...], lift: NDArray[np.float64]
) -> float:
    """Return the tau of the greatest mean class accuracy among those that lose no accuracy; of several the smallest.

    Args:
        logits: (N, K), of faces that were not trained on.
        targets: (N,), the true class.
        labels: names of the classes.
        lift: what tau = 1 adds, (K,).
    """
    reports = {
        tau: classification_report(softmax(logits + (tau * lift).astype(np.float32)), targets, labels) for tau in TAUS
    }
    harmless = [tau for tau, report in reports.items() if report.accuracy >= reports[0].accuracy]
    return max(harmless, key=lambda tau: (reports[tau].mean_class_accuracy, -tau))


def balance(path: Path, target: Path, data: Path, tau: float | None = None) -> Balanced:
    """Write a classifier whose rare classes are lifted, and which is calibrated again.

    Args:
        path: its checkpoint; an ensemble's is one too.
        target: the file to write.
        data: the labelled faces that it was trained on; what it was trained on counts the classes, and `dev` chooses.
        tau: how far; None for what `choose` returns.

    Raises:
        CheckpointError: no checkpoint, damaged, balanced before, without a head that has a bias for each class, or
            trained on `dev`; or the file cannot be written.
        DatasetError: of `data`.
        InputError: `target` is the checkpoint itself.
    """
    if target.exists() and target.samefile(path):
        raise InputError(f"{target} is the checkpoint itself: name another file to write")
    network, info = load_classifier(path)
    if BALANCED in info.recipe:
        raise CheckpointError(f"{path} is balanced already: balance what it came from")
    heads = _heads(network, path)
    assert info.contract is not None  # a classifier has one
    contract = info.contract
    dev = held_out(contract, info.finetuned_on, data)
    lift = rarity(_shares(info, data))
    logits, targets = TorchClassifier(network, contract).logits(crops_of(dev)), hard_targets(dev)
    before = classification_report(softmax(logits), targets, contract.labels)
    if tau is None:
        tau = choose(logits, targets, contract.labels, lift)
    with torch.no_grad():
        for head, scale in heads:
            head.bias.add_(torch.from_numpy(tau * scale * lift).to(head.bias.dtype))
    figures = Selection(dev).figures(network, contract)
    recipe = _recipe(info, path, tau)
    info = dataclasses.replace(
        info,
        recipe=recipe,
        metrics=scores(figures),
        contract=calibrated(contract.replace(recipe_sha256=recipe_digest(recipe)), figures),
        lineage=[],
    )
    save_checkpoint(target, network.state_dict(), info)
    return Balanced(info, before, tau, tau * lift)


def _heads(network: nn.Module, path: Path) -> list[tuple[nn.Linear, float]]:
    """Return the layers that give a classifier's logits, each with what its own are divided by.

    Raises:
        CheckpointError: there is one that has no bias for each class.
    """
    members = [(network, 1.0)]
    if isinstance(network, Ensemble):
        members = list(zip(network.members, network.temperatures.tolist(), strict=True))
    heads = [(getattr(member, "head", None), scale) for member, scale in members]
    plain = [(head, scale) for head, scale in heads if isinstance(head, nn.Linear) and head.bias is not None]
    if len(plain) < len(heads) or any(head.out_features != network.num_classes for head, _ in plain):
        raise CheckpointError(f"{path} has no head with a bias for each class, which balancing moves")
    return plain


def _shares(info: CheckpointInfo, data: Path) -> NDArray[np.float64]:
    """Return each class's share of the faces that a classifier was trained on, by their majority.

    Raises:
        DatasetError: of `data`.
    """
    contract, split = info.contract, info.finetuned_on
    assert contract is not None
    assert split is not None  # `held_out` has refused it
    faces = load(locate([data]).need_faces(), split, img_size=contract.img_size, color_mode=contract.color_mode)  # type: ignore[arg-type]
    targets = hard_targets(relabel(faces, contract.labels))
    return np.bincount(targets, minlength=len(contract.labels)) / np.float64(len(targets))


def _recipe(info: CheckpointInfo, path: Path, tau: float) -> dict[str, Any]:
    name = f"{info.recipe['name']}_{BALANCED}"
    return info.recipe | {"name": name, BALANCED: {"of": recipe_word(path), "sha256": file_sha256(path), "tau": tau}}
