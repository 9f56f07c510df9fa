"""Loss of predictions against guessed labels (MixMatch; Berthelot et al. 2019, arXiv:1905.02249, eq. 4)."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from fer_app.errors import ConfigError

GuessLossKind = Literal["mse", "ce"]


class GuessLoss(nn.Module):
    """Compare predictions with guesses: `mse`, the mean over batch and classes of `(softmax(logits) - q)^2`, or `ce`.

    The squared error is bounded, so that wrong guesses cost little. Guesses get no gradient.

    Args:
        kind: `mse`, MixMatch's, or `ce`, the mean over the batch of the cross-entropy.

    Raises:
        ConfigError: there is no such kind.
    """

    def __init__(self, kind: GuessLossKind = "mse") -> None:
        super().__init__()
        if kind not in get_args(GuessLossKind):
            raise ConfigError(f"there is no loss of guesses {kind!r}; there are {', '.join(get_args(GuessLossKind))}")
        self.kind: GuessLossKind = kind

    def forward(self, logits: Tensor, guesses: Tensor) -> Tensor:
        """Return the loss, a float32 scalar.

        Args:
            logits: (M, K), computed with as float32.
            guesses: float, (M, K), rows summing to 1.

        Raises:
            ValueError: the shapes differ.
        """
        if logits.shape != guesses.shape or logits.ndim != 2:
            raise ValueError(f"logits {tuple(logits.shape)} and guesses {tuple(guesses.shape)} must both be (M, K)")
        logits, guesses = logits.float(), guesses.detach().float()
        if self.kind == "ce":
            return F.cross_entropy(logits, guesses)
        return F.mse_loss(logits.softmax(dim=1), guesses)
