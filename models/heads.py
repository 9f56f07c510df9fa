"""Projection heads of contrastive losses."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from fer_app.errors import ConfigError
from models.vit import init_transformer_weights

ProjectionKind = Literal["none", "linear", "mlp"]


class Projection(nn.Module):
    """Map features to the unit sphere on which samples are contrasted.

    `mlp` is linear - ReLU - linear with a hidden layer as wide as the features (Zhang et al. 2024, arXiv:2401.07245,
    table III, "dense"); `linear` is one layer; `none` only normalises, and its width is the features'.

    Args:
        kind: the form of the head.
        dim: width of the features.
        out_dim: width of the code; of no effect with `none`.

    Raises:
        ConfigError: there is no such kind.
    """

    def __init__(self, kind: ProjectionKind, dim: int, out_dim: int) -> None:
        super().__init__()
        if kind == "none":
            self.net: nn.Module = nn.Identity()
        elif kind == "linear":
            self.net = nn.Linear(dim, out_dim)
        elif kind == "mlp":
            self.net = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, out_dim))
        else:
            raise ConfigError(f"there is no projection {kind!r}; there are {', '.join(get_args(ProjectionKind))}")
        self.out_dim = dim if kind == "none" else out_dim
        self.apply(init_transformer_weights)

    def forward(self, features: Tensor) -> Tensor:
        """Project and normalise.

        Args:
            features: (M, dim).

        Returns:
            float32 also under autocast, (M, out_dim), rows of length 1.
        """
        return F.normalize(self.net(features).float(), dim=-1)
