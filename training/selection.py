"""The split that chooses a stage's best checkpoint, the temperature of its probabilities, and what it asserts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from torch import nn

from fer_app.contract import Contract
from fer_app.errors import CheckpointError
from fer_app.preprocess import softmax
from training.checkpoint import read_info
from training.data.datasets import load, relabel
from training.data.image_set import ImageSet
from training.data.locate import locate
from training.data.splits import share_faces
from training.evaluation import TorchClassifier, crops_of, hard_targets
from training.metrics import best_temperature, classification_report
from training.run_folder import RunFolder
from training.uncertainty import choose_threshold

# Figures that go into the contract, under their own names.
_CALIBRATION: Final = ("temperature", "uncertain_below")


class Selection:
    """Scores a stage's network after every epoch, and keeps the best, or the last as the best.

    Args:
        faces: the split; None where it would be one that is trained on: the last epoch counts, and there are no
            figures.
        always: whether every epoch takes the place of the best, whatever its accuracy.

    Raises:
        DatasetError: `faces` has no targets.
    """

    def __init__(self, faces: ImageSet | None, *, always: bool = False) -> None:
        self._always = always
        self._faces = None if faces is None else (crops_of(faces), hard_targets(faces))

    def figures(self, model: nn.Module, contract: Contract) -> dict[str, float]:
        """Score through the serving preprocess; its temperature and threshold come along."""
        if self._faces is None:
            return {}
        crops, targets = self._faces
        logits = TorchClassifier(model, contract).logits(crops)
        temperature = best_temperature(logits, targets)
        probs = softmax(logits, temperature)
        uncertain_below = choose_threshold(probs, targets)
        report = classification_report(probs, targets, contract.labels, uncertain_below=uncertain_below)
        return {
            "dev_accuracy": report.accuracy,
            "dev_mean_class_accuracy": report.mean_class_accuracy,
            "dev_ece": report.ece,
            "dev_asserted_share": report.asserted.share,
            "temperature": temperature,
            "uncertain_below": uncertain_below,
        }

    def save(self, folder: RunFolder, figures: dict[str, float], write: Callable[[Path], None]) -> None:
        """Have the newest checkpoint written, and the best, if its accuracy is or every epoch counts as it."""
        write(folder.last)
        if self._faces is None:
            return
        best = read_info(folder.best).metrics["dev_accuracy"] if folder.best.is_file() else -1.0
        if self._always or figures["dev_accuracy"] > best:
            write(folder.best)


def held_out(contract: Contract, split: str | None, data: Path) -> ImageSet:
    """Return `dev` of a data set, as a classifier knows its classes.

    Args:
        contract: the classifier's.
        split: it was trained on this; None where nobody knows.
        data: the labelled faces.

    Raises:
        CheckpointError: it was trained on faces of `dev`, or may have been.
        DatasetError: of the data.
    """
    if split is None or share_faces("dev", split):
        raise CheckpointError(
            f"what was trained on {split or 'an unknown split'} cannot be calibrated on dev: it has seen those faces"
        )
    dev = load(locate([data]).need_faces(), "dev", img_size=contract.img_size, color_mode=contract.color_mode)
    return relabel(dev, contract.labels)


def calibrated(contract: Contract, figures: Mapping[str, float]) -> Contract:
    """Put what a selection split has calibrated into a contract, which stays as it is where there was none."""
    return contract.replace(**{name: figures[name] for name in _CALIBRATION if name in figures})


def scores(figures: Mapping[str, float]) -> dict[str, float]:
    """Return the figures of a checkpoint that are no part of its contract."""
    return {name: value for name, value in figures.items() if name not in _CALIBRATION}
