"""Uniform loss on label queries (PLL-FER; Wang, Sebe and Lepri 2022, arXiv:2209.15402, eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.losses.scl_loss import check_temperature


class UniformLoss(nn.Module):
    """Spread label queries over the sphere: `1/K sum_i log sum_j exp(t_i . t_j / tau)`, j = i included.

    With at most one more query than dimensions it is lowest, and all gradients along the sphere are zero, at a regular
    simplex: every cosine -1 / (K - 1).

    Differs: eq. 3 does not normalise the queries, and would have no lowest value then; tau is not printed.

    Args:
        temperature: tau.

    Raises:
        ConfigError: `temperature` is not positive.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = check_temperature(temperature)

    def forward(self, queries: Tensor) -> Tensor:
        """Return the loss, a float32 scalar.

        Args:
            queries: (K, D), rows of length 1; similarities are computed in float32, also under autocast.
        """
        with torch.autocast(device_type=queries.device.type, enabled=False):
            queries = queries.float()
            return (queries @ queries.T / self.temperature).logsumexp(dim=1).mean()
