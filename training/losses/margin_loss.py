"""Margin loss between embeddings and class centroids (after Florea et al. 2020, "Margin-Mix", ECCV)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fer_app.errors import ConfigError
from training.fuzzy_c_means import squared_distances


class MarginLoss(nn.Module):
    """Pull every embedding to the centroid of its class, and push it from the others, up to a margin.

    With `d_ij = |z_i - c_j|` for embeddings and centroids of length 1 and soft targets p, it is the mean over the batch
    of `sum_j p_ij / (K - 1) sum_{k != j} max(0, d_ij^2 - d_ik^2 + margin)`. Embeddings get gradients, centroids do not.

    Differs: of the paper only the description was at hand, and not its formula. The hinge on squared distances is
    ours; so are the margin and that soft targets weigh the terms of their classes.

    Args:
        margin: by how much another class's centroid has to be farther; squared distances lie in [0, 4].

    Raises:
        ConfigError: `margin` is negative.
    """

    def __init__(self, margin: float = 0.5) -> None:
        super().__init__()
        if not margin >= 0.0:
            raise ConfigError(f"the margin must not be negative, got {margin}")
        self.margin = margin

    def forward(self, z: Tensor, targets: Tensor, centroids: Tensor) -> Tensor:
        """Return the loss, a float32 scalar.

        Args:
            z: (M, D), rows of length 1.
            targets: float, (M, K), rows summing to 1.
            centroids: (K, D), rows of length 1; K is at least 2.

        Raises:
            ValueError: the shapes do not fit.
        """
        if z.ndim != 2 or targets.shape != (len(z), len(centroids)) or centroids.shape[1:] != z.shape[1:]:
            shapes = f"z {tuple(z.shape)}, targets {tuple(targets.shape)}, centroids {tuple(centroids.shape)}"
            raise ValueError(f"{shapes} must be (M, D), (M, K), (K, D)")
        classes = len(centroids)
        if classes < 2:
            raise ValueError("a margin between classes needs two of them")
        # Under autocast the products would be bfloat16: two digits of a distance.
        with torch.autocast(device_type=z.device.type, enabled=False):
            distances = squared_distances(z.float(), centroids.detach().float())
            hinges = (distances[:, :, None] - distances[:, None, :] + self.margin).clamp(min=0.0)
            itself = torch.eye(classes, dtype=torch.bool, device=z.device)
            violations = hinges.masked_fill(itself, 0.0).sum(dim=2) / (classes - 1)
            return (targets.float() * violations).sum(dim=1).mean()
