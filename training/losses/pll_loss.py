"""Partial-label loss (PLL-FER; Wang, Sebe and Lepri 2022, arXiv:2209.15402, eq. 2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class PllLoss(nn.Module):
    """Mean over the batch of `-sum_j C_j log softmax(logits)_j`, C being each sample's confidence in its candidates.

    Unlike in cross-entropy with soft targets, rows of C need not sum to 1: those of the literal revision do not.
    """

    def forward(self, logits: Tensor, confidences: Tensor) -> Tensor:
        """Return the loss, a float32 scalar.

        Args:
            logits: (B, K), computed with as float32.
            confidences: float, (B, K), 0 where a label is no candidate; they get no gradient.

        Raises:
            ValueError: the shapes differ.
        """
        if logits.shape != confidences.shape or logits.ndim != 2:
            raise ValueError(
                f"logits {tuple(logits.shape)} and confidences {tuple(confidences.shape)} must both be (B, K)"
            )
        log_probs = F.log_softmax(logits.float(), dim=1)
        return -(confidences.detach().float() * log_probs).sum(dim=1).mean()
