"""Figures of a classifier: accuracy and its interval, mean class accuracy, macro-F1, calibration, confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fer_app.errors import DatasetError
from training.uncertainty import Asserted, asserted

FloatArray = NDArray[np.float32] | NDArray[np.float64]

CALIBRATION_BINS = 15
_Z_95 = 1.959963984540054  # of the standard normal distribution, 97.5 % lie below it


@dataclass(frozen=True, eq=False)
class CalibrationBins:
    """How often predictions are right against how sure they are, in equal bins of confidence from 0 to 1.

    Attributes:
        counts: int64, (bins,): faces in each.
        right: int64, (bins,): those of them whose class is right.
        confidence: float64, (bins,): sum of their largest probabilities.
    """

    counts: NDArray[np.int64]
    right: NDArray[np.int64]
    confidence: NDArray[np.float64]

    @property
    def ece(self) -> float:
        """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, eq. 3), a share."""
        return float(np.abs(self.right - self.confidence).sum() / self.counts.sum())


@dataclass(frozen=True, eq=False)
class ClassificationReport:
    """What a classifier scored on a set of faces.

    Attributes:
        labels: K class names.
        confusion: int64, (K, K): rows are the true class, columns the predicted one.
        ece: expected calibration error, 15 equal bins of confidence (Guo et al. 2017, arXiv:1706.04599), a share.
        asserted: what of them the classifier does not call uncertain.
    """

    labels: tuple[str, ...]
    confusion: NDArray[np.int64]
    ece: float
    asserted: Asserted

    @property
    def n(self) -> int:
        """Number of faces scored."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of faces whose class is right."""
        return float(np.trace(self.confusion)) / self.n

    @property
    def accuracy_ci95(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson_interval(int(np.trace(self.confusion)), self.n)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Per class, (K,): share of its faces that are found; NaN for a class without a face."""
        return _ratio(np.diag(self.confusion), self.confusion.sum(axis=1))

    @property
    def precision(self) -> NDArray[np.float64]:
        """Per class, (K,): share of the faces given this class that are it; NaN for a class never given."""
        return _ratio(np.diag(self.confusion), self.confusion.sum(axis=0))

    @property
    def f1(self) -> NDArray[np.float64]:
        """Per class, (K,): 2 TP / (2 TP + FP + FN); NaN for a class neither present nor given."""
        return _ratio(2 * np.diag(self.confusion), self.confusion.sum(axis=0) + self.confusion.sum(axis=1))

    @property
    def mean_class_accuracy(self) -> float:
        """Mean of the recalls of the classes that are present."""
        return float(np.nanmean(self.recall))

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that are present or given."""
        return float(np.nanmean(self.f1))

    def summary(self) -> dict[str, object]:
        """Return the figures of the whole set as JSON has them: shares, not per cent."""
        return {
            "accuracy": self.accuracy,
            "accuracy_ci95": list(self.accuracy_ci95),
            "mean_class_accuracy": self.mean_class_accuracy,
            "macro_f1": self.macro_f1,
            "ece": self.ece,
            "n": self.n,
        }

    def to_dict(self) -> dict[str, object]:
        """Return the public JSON form: shares, not per cent."""
        per_class = {
            label: {
                "n": int(self.confusion[k].sum()),
                "recall": _plain(self.recall[k]),
                "precision": _plain(self.precision[k]),
                "f1": _plain(self.f1[k]),
            }
            for k, label in enumerate(self.labels)
        }
        return {
            **self.summary(),
            "uncertain_below": self.asserted.uncertain_below,
            "asserted_share": self.asserted.share,
            "asserted_precision": self.asserted.precision,
            "per_class": per_class,
            "confusion": self.confusion.tolist(),
        }


def classification_report(
    probs: FloatArray, targets: NDArray[np.int64], labels: tuple[str, ...], *, uncertain_below: float = 0.0
) -> ClassificationReport:
    """Score predictions.

    Args:
        probs: (N, K), each row sums to 1.
        targets: (N,), the true class.
        labels: K class names.
        uncertain_below: faces whose largest probability is below it are not asserted.

    Raises:
        DatasetError: there is nothing to score.
    """
    if len(probs) == 0:
        raise DatasetError("there is no face to score")
    predicted = probs.argmax(axis=1)
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (targets, predicted), 1)
    ece = calibration_bins(probs, targets).ece
    return ClassificationReport(labels, confusion, ece, asserted(probs, targets, uncertain_below))


def calibration_bins(probs: FloatArray, targets: NDArray[np.int64], bins: int = CALIBRATION_BINS) -> CalibrationBins:
    """Sort predictions into bins of confidence.

    Args:
        probs: (N, K), each row sums to 1.
        targets: (N,), the true class.
        bins: how many.
    """
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == targets
    which = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return CalibrationBins(
        counts=np.bincount(which, minlength=bins),
        right=np.bincount(which[right], minlength=bins),
        confidence=np.bincount(which, weights=confidence, minlength=bins).astype(np.float64),
    )


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, `right` of `n` (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Unlike the share +- 1.96 standard errors it stays within 0 and 1, and has a width where all or none are right.
    """
    share, spread = right / n, _Z_95**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = _Z_95 / (1 + spread) * float(np.sqrt(share * (1 - share) / n + spread / (4 * n)))
    # Rounding can leave an end on the wrong side of 0 or 1.
    return max(middle - half, 0.0), min(middle + half, 1.0)


def best_temperature(logits: FloatArray, targets: NDArray[np.int64]) -> float:
    """Return the temperature that minimises the negative log-likelihood (Guo et al. 2017, section 4.2).

    Args:
        logits: (N, K).
        targets: (N,), the true class.
    """
    low, high = np.log(0.05), np.log(20.0)
    golden = (np.sqrt(5.0) - 1.0) / 2.0  # the likelihood is unimodal in the temperature: golden-section search
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if _nll(logits, targets, np.exp(left)) < _nll(logits, targets, np.exp(right)):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2.0))


def _nll(logits: FloatArray, targets: NDArray[np.int64], temperature: float) -> float:
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    log_probs = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return float(-log_probs[np.arange(len(targets)), targets].mean())


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    result = np.full(len(part), np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
