"""Cross-entropy against soft targets."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fer_app.errors import ConfigError


class CrossEntropyLoss(nn.Module):
    """Mean over the batch of `-sum_k y_k log softmax(logits)_k`.

    Targets are distributions: one-hot rows, votes, or mixtures of them.

    Args:
        label_smoothing: s; the targets become `(1 - s) y + s / K`.

    Raises:
        ConfigError: `label_smoothing` is not in [0, 1).
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

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
        return F.cross_entropy(logits.float(), targets.float(), label_smoothing=self.label_smoothing)
