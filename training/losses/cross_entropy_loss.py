"""Cross-entropy against soft targets, with or without class weights and logit adjustment."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_app.errors import ConfigError

ClassWeights = Literal["none", "inverse", "effective"]
EFFECTIVE_BETA = 0.9999


def class_weights(kind: ClassWeights, classes: Tensor, num_classes: int) -> Tensor | None:
    """Return what each class counts, so that the mean over the samples is 1.

    Args:
        kind: `inverse`, 1 / n of a class of n samples; `effective`, (1 - b) / (1 - b^n) with b = 0.9999 (Cui et al.
            2019, arXiv:1901.05555); `none`.
        classes: int64, (N,), each sample's.
        num_classes: K.

    Returns:
        float32, (K,), 0 for classes without samples; None for `none`.
    """
    if kind == "none":
        return None
    counts = torch.bincount(classes, minlength=num_classes).double()
    worth = 1 / counts if kind == "inverse" else (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA**counts)
    worth = worth.where(counts > 0, 0.0)
    return (worth * counts.sum() / (worth * counts).sum()).float()


def log_prior(targets: Tensor) -> Tensor:
    """Return the logarithm of each class's share of the targets, as logit adjustment needs it.

    Args:
        targets: float, (N, K), distributions or multi-hot rows; a row counts 1 in all.

    Returns:
        float32, (K,); a class without any has the share of half a sample.
    """
    shares = (targets / targets.sum(dim=1, keepdim=True)).double().mean(dim=0)
    return shares.clamp(min=0.5 / len(targets)).log().float()


class CrossEntropyLoss(nn.Module):
    """Mean over the batch of `-sum_k y_k log softmax(logits)_k`.

    Targets are distributions: one-hot rows, votes, or mixtures of them. With weights w it is
    `-sum_ik w_k y_ik log softmax(logits_i)_k / sum_ik w_k y_ik`, torch's weighted mean for one-hot rows; as there,
    smoothing changes the upper sum alone.

    With an offset the softmax is of `logits + offset`. With tau times the logarithm of each class's share it is logit
    adjustment (Menon et al. 2021, arXiv:2007.07314, eq. 10): the network learns the rest, and what it says without the
    offset is as if classes were less unequal, for tau = 1 equally frequent. Where a teacher that was adjusted itself
    makes part of the targets, its adjustment comes on top.

    Args:
        label_smoothing: s; the targets become `(1 - s) y + s / K`.
        weights: float32, (K,), what each class counts; None where all count 1.
        offset: float32, (K,), what is added to the logits; None for nothing.

    Raises:
        ConfigError: `label_smoothing` is not in [0, 1).
    """

    def __init__(
        self, label_smoothing: float = 0.0, weights: Tensor | None = None, offset: Tensor | None = None
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.weights = weights
        self.offset = offset

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, a float32 scalar.

        Args:
            logits: (B, K), computed with as float32.
            targets: float, (B, K), rows summing to 1.

        Raises:
            ValueError: the shapes differ. Class indices are refused too: they would hide a forgotten mixing.
        """
        if logits.shape != targets.shape or logits.ndim != 2:
            raise ValueError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must both be (B, K)")
        logits, targets, smoothing = logits.float(), targets.float(), self.label_smoothing
        if self.offset is not None:
            logits = logits + self.offset.to(logits.device)
        if self.weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=smoothing)
        weights = self.weights.to(logits.device)
        total = F.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing, reduction="sum")
        return total / (targets @ weights).sum()
