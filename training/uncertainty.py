"""What a classifier asserts: the threshold below which its labels count as uncertain, chosen and scored.

That is selective classification (Geifman and El-Yaniv 2017, arXiv:1705.08500): the share asserted is called coverage
there, and one minus its precision risk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

ASSERTED_PRECISION: Final = 0.95
"""Of what is asserted so large a share is to be right."""

# Thresholds are thousandths: finer ones would be chosen by single faces.
_STEPS = 1000


@dataclass(frozen=True)
class Asserted:
    """What of a set is asserted: the faces whose largest probability is not below a threshold.

    Attributes:
        uncertain_below: the threshold.
        n: faces of the set, at least 1.
        count: those of them that are asserted.
        right: those of these whose class is right.
    """

    uncertain_below: float
    n: int
    count: int
    right: int

    @property
    def share(self) -> float:
        """Share of the set that is asserted."""
        return self.count / self.n

    @property
    def precision(self) -> float | None:
        """Share of what is asserted that is right; None where nothing is."""
        return self.right / self.count if self.count else None


def asserted(
    probs: NDArray[np.float32] | NDArray[np.float64], targets: NDArray[np.int64], uncertain_below: float
) -> Asserted:
    """Count what is asserted, by the comparison that serving makes.

    Args:
        probs: (N, K), each row sums to 1; N is at least 1.
        targets: (N,), the true class.
        uncertain_below: the threshold.
    """
    confidence, right = _confidence(probs), probs.argmax(axis=1) == targets
    certain = ~(confidence < uncertain_below)
    return Asserted(uncertain_below, len(targets), int(certain.sum()), int((certain & right).sum()))


def choose_threshold(
    probs: NDArray[np.float32] | NDArray[np.float64],
    targets: NDArray[np.int64],
    precision: float = ASSERTED_PRECISION,
) -> float:
    """Return the threshold that asserts as much as possible at a precision.

    It is the smallest number of whole thousandths such that of the faces whose largest probability is not below it
    `precision` or more are right; larger ones need not all do as well. It is 0, and nothing uncertain, where that holds
    of all faces together. Where it holds at no threshold that leaves a face, it is 1: what cannot be told well
    enough is not asserted, but for a probability that rounds to 1.

    Args:
        probs: (N, K), each row sums to 1; of faces that were not trained on.
        targets: (N,), the true class.
        precision: a share.
    """
    order = np.argsort(_confidence(probs), kind="stable")
    confidence = _confidence(probs)[order]
    right = (probs.argmax(axis=1) == targets)[order]
    thresholds = (np.arange(_STEPS + 1) / _STEPS).astype(np.float32)
    first = np.searchsorted(confidence, thresholds, side="left")  # faces from there on are asserted
    right_from = np.append(np.cumsum(right[::-1])[::-1], 0)
    counts = len(confidence) - first
    holds = (counts > 0) & (right_from[first] >= precision * counts)
    return int(holds.argmax()) / _STEPS if holds.any() else 1.0


def _confidence(probs: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(probs.max(axis=1, initial=0.0), np.float32)
