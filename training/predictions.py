"""What a classifier says of every face of a labelled set."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fer_app.atomic_file import replacing
from fer_app.errors import InputError
from training.metrics import CalibrationBins, ClassificationReport, calibration_bins, classification_report


@dataclass(frozen=True, eq=False)
class Predictions:
    """Probabilities beside the truth, in the order of the set.

    Attributes:
        names: N names, as the data set spells them.
        labels: K class names.
        targets: int64, (N,), the true class.
        probs: float32, (N, K), each row sums to 1.
        uncertain_below: the classifier's threshold.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    targets: NDArray[np.int64]
    probs: NDArray[np.float32]
    uncertain_below: float = 0.0

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The class of the largest probability, (N,)."""
        return np.asarray(self.probs.argmax(axis=1), np.int64)

    def report(self, rows: NDArray[np.bool_] | None = None) -> ClassificationReport:
        """Return the figures of all faces, or of those that `rows`, (N,), chooses.

        Raises:
            DatasetError: there is nothing to score.
        """
        chosen = slice(None) if rows is None else rows
        return classification_report(
            self.probs[chosen], self.targets[chosen], self.labels, uncertain_below=self.uncertain_below
        )

    def calibration(self) -> CalibrationBins:
        """Return how often predictions are right against how sure they are."""
        return calibration_bins(self.probs, self.targets)

    def mistakes(self) -> NDArray[np.int64]:
        """Return the places of the faces whose class is wrong, (M,), the most confident mistake first."""
        wrong = np.flatnonzero(self.predicted != self.targets)
        order = np.argsort(-self.probs[wrong].max(axis=1), kind="stable")
        return np.asarray(wrong[order], np.int64)

    def write_csv(self, path: Path) -> None:
        """Write one row a face: name, label, predicted, and the probability of every label.

        Raises:
            InputError: the file cannot be written.
        """
        try:
            # A file name may hold bytes that are no UTF-8; they come out as they went in.
            with (
                replacing(path) as temporary,
                temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
            ):
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["name", "label", "predicted", *(f"prob_{label}" for label in self.labels)])
                for name, true, predicted, probs in zip(
                    self.names, self.targets, self.predicted, self.probs, strict=True
                ):
                    shares = (f"{prob:.6f}" for prob in probs)
                    writer.writerow([name, self.labels[true], self.labels[predicted], *shares])
        except OSError as error:
            raise InputError(f"cannot write {path}: {error}") from error
