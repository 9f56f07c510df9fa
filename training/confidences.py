"""Which labels every sample may have, and how sure a run is of each (PLL-FER, arXiv:2209.15402, eq. 2, 4 and 5)."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

Revision = Literal["one_hot", "literal", "renormalised", "none"]

_CANDIDATE_STREAM: Final = 0xCA9D  # tells these draws apart from every other use of the same seed


def candidate_sets(targets: Tensor, flip_probability: float, seed: int) -> Tensor:
    """Return which labels each sample may have: those that its target names, and others added at random.

    Every label that the target leaves out is added independently with one probability, as the sets of LW (Wen et al.
    2021, arXiv:2106.05731) and PiCO are made for data with one label a sample. So they are noise around that label.
    What is added to sample i is a function of (seed, i, K) alone.

    Args:
        targets: float32, (N, K): one-hot labels, or shares of votes.
        flip_probability: q, in [0, 1).
        seed: 0 or more.

    Returns:
        bool, (N, K), at least one a row; all of a row may be True.
    """
    sequence = np.random.SeedSequence([_CANDIDATE_STREAM, seed])
    draws = np.random.Generator(np.random.Philox(sequence)).random(tuple(targets.shape))
    return (targets > 0) | (torch.from_numpy(draws) < flip_probability)


@torch.no_grad()
def revise(confidences: Tensor, logits: Tensor, threshold: float, rule: Revision) -> Tensor:
    """Settle on the label that leads a sample's other candidates clearly (eq. 4 and 5).

    A candidate's score is sigmoid(logit) x confidence. Where the largest exceeds the second by more than the threshold,
    the confidence of its label becomes 1. At uniform confidences the lead is at most 1 / number of candidates, so that
    samples with 1 / threshold candidates or more can never be revised.

    Args:
        confidences: float32, (B, K).
        logits: (B, K).
        threshold: in [0, 1).
        rule: what becomes of the others: `one_hot`, they become 0, as the paper's Fig. 4 strikes them out and eq. 2
            wants a sum of 1; `literal`, they stay, as eq. 5 says; `renormalised`, they stay and the row is divided by
            its sum; `none` revises nothing.

    Returns:
        float32, (B, K), the revised rows; samples with one candidate, and those without a clear lead, as they were.
    """
    if rule == "none" or confidences.shape[1] < 2:
        return confidences.clone()
    scores = logits.float().sigmoid() * confidences
    (first, second), best = scores.topk(2, dim=1).values.unbind(dim=1), scores.argmax(dim=1)
    leads = (first - second > threshold) & ((confidences > 0).sum(dim=1) > 1)
    certain = torch.nn.functional.one_hot(best, confidences.shape[1]).to(confidences.dtype)
    revised = certain if rule == "one_hot" else torch.maximum(confidences, certain)
    if rule == "renormalised":
        revised = revised / revised.sum(dim=1, keepdim=True)
    return torch.where(leads[:, None], revised, confidences)


class Confidences:
    """A run's confidences, one row a sample, as they change while it trains.

    Attributes:
        candidates: bool, (N, K).
        values: float32, (N, K); at first 1 / number of candidates for each of them (eq. 2).
    """

    def __init__(self, candidates: Tensor, threshold: float, rule: Revision) -> None:
        """Begin with every candidate as likely as the others.

        Args:
            candidates: bool, (N, K), at least one a row.
            threshold: see `revise`.
            rule: see `revise`.
        """
        self.candidates = candidates
        self.initial = candidates.float() / candidates.sum(dim=1, keepdim=True)
        self.values = self.initial.clone()
        self._revised = torch.zeros(len(candidates), dtype=torch.bool)
        self._threshold, self._rule = threshold, rule

    def rows(self, samples: Tensor, device: torch.device) -> Tensor:
        """Return the confidences of samples, int64 (B,): float32, (B, K), on the device, where all are from now on."""
        self.values, self._revised = self.values.to(device), self._revised.to(device)
        return self.values[samples.to(device)]

    def revise(self, samples: Tensor, logits: Tensor) -> None:
        """Revise the rows of samples, int64 (B,); of one that is there twice the last counts."""
        samples = samples.to(logits.device)
        unique, place = torch.unique(samples, return_inverse=True)
        last = torch.zeros_like(unique).scatter_reduce(
            0, place, torch.arange(len(samples), device=samples.device), "amax", include_self=False
        )
        before = self.rows(unique, logits.device)
        after = revise(before, logits[last], self._threshold, self._rule)
        self.values[unique] = after
        self._revised[unique] |= (after != before).any(dim=1)

    @property
    def revised(self) -> Tensor:
        """Which samples were revised so far: bool, (N,)."""
        return self._revised

    @property
    def revised_share(self) -> Tensor:
        """The share of all samples that were revised so far: float32, a scalar, on the device of the rows."""
        return self._revised.float().mean()

    def state(self) -> dict[str, Tensor]:
        """Return what `restore` takes, in main memory."""
        return {"confidences": self.values.cpu().clone(), "revised": self._revised.cpu().clone()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned.

        Raises:
            KeyError: it is something else's.
            ValueError: it is of other samples.
        """
        values, revised = state["confidences"], state["revised"]
        if values.shape != self.values.shape or revised.shape != self._revised.shape:
            raise ValueError(f"confidences of shape {tuple(values.shape)}, not {tuple(self.values.shape)}")
        self.values, self._revised = values.clone(), revised.clone()
