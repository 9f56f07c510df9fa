"""The split that chooses a stage's best checkpoint and the temperature of its probabilities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from fer_app.contract import Contract
from fer_app.preprocess import softmax
from training.checkpoint import read_info
from training.data.image_set import ImageSet
from training.evaluation import TorchClassifier, crops_of, hard_targets
from training.metrics import best_temperature, classification_report
from training.run_folder import RunFolder


class Selection:
    """Scores a stage's network after every epoch, and keeps the best.

    Args:
        faces: the split; None where it would be one that is trained on: the last epoch counts, and there are no
            figures.

    Raises:
        DatasetError: `faces` has no targets.
    """

    def __init__(self, faces: ImageSet | None) -> None:
        self._faces = None if faces is None else (crops_of(faces), hard_targets(faces))

    def figures(self, model: nn.Module, contract: Contract) -> dict[str, float]:
        """Score through the serving preprocess; the best temperature comes along."""
        if self._faces is None:
            return {}
        crops, targets = self._faces
        logits = TorchClassifier(model, contract).logits(crops)
        temperature = best_temperature(logits, targets)
        report = classification_report(softmax(logits, temperature), targets, contract.labels)
        return {
            "dev_accuracy": report.accuracy,
            "dev_mean_class_accuracy": report.mean_class_accuracy,
            "dev_ece": report.ece,
            "temperature": temperature,
        }

    def save(self, folder: RunFolder, figures: dict[str, float], write: Callable[[Path], None]) -> None:
        """Have the newest checkpoint written, and the best, if its accuracy is."""
        write(folder.last)
        if self._faces is None:
            return
        best = read_info(folder.best).metrics["dev_accuracy"] if folder.best.is_file() else -1.0
        if figures["dev_accuracy"] > best:
            write(folder.best)
