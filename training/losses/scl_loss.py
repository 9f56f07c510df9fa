"""Supervised contrastive loss (SCL; Khosla et al. 2020, arXiv:2004.11362)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fer_app.errors import ConfigError


def contrastive_loss(z: Tensor, positives: Tensor, temperature: float) -> Tensor:
    """Pull every anchor towards its positives and away from all other samples (Khosla et al., eq. 2, "L_out").

    With `S = z z^T / tau`, the loss of anchor i is `-1/|P(i)| sum_{p in P(i)} (S_ip - logsumexp_{a != i} S_ia)`: the
    denominator holds positives and negatives. It is averaged over the anchors that have a positive.

    Args:
        z: (M, d), rows of length 1; similarities are computed in float32, also under autocast.
        positives: bool, (M, M), row i marks P(i); the diagonal is ignored.
        temperature: tau.

    Returns:
        float32 scalar; 0, with a graph and zero gradients, when no anchor has a positive.
    """
    # Under autocast the product would be bfloat16: two digits of similarity, divided by a small temperature.
    with torch.autocast(device_type=z.device.type, enabled=False):
        z = z.float()
        similarity = z @ z.T / temperature
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        positives = positives & ~itself
        # A finite floor, since a row of -inf alone (one sample) would make the gradient NaN.
        others = similarity.masked_fill(itself, torch.finfo(similarity.dtype).min)
        log_probs = similarity - others.logsumexp(dim=1, keepdim=True)
        num_positives = positives.sum(dim=1)
        per_anchor = -log_probs.masked_fill(~positives, 0.0).sum(dim=1) / num_positives.clamp(min=1)
        return per_anchor.sum() / (num_positives > 0).sum().clamp(min=1)


def check_temperature(temperature: float) -> float:
    """Return the temperature.

    Raises:
        ConfigError: it is not positive.
    """
    if not temperature > 0.0:
        raise ConfigError(f"the temperature of a contrastive loss must be positive, got {temperature}")
    return temperature


class SclLoss(nn.Module):
    """Contrast samples; those of the same class are positives.

    Args:
        temperature: tau.

    Raises:
        ConfigError: `temperature` is not positive.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self.temperature = check_temperature(temperature)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a float32 scalar.

        Args:
            z: (M, d), rows of length 1; all views of a batch.
            labels: int64, (M,), class of every row of `z`.

        Raises:
            ValueError: the shapes do not fit.
        """
        if z.ndim != 2 or labels.shape != z.shape[:1]:
            raise ValueError(f"z {tuple(z.shape)} and labels {tuple(labels.shape)} must be (M, d) and (M,)")
        return contrastive_loss(z, labels[:, None] == labels, self.temperature)
