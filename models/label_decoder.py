"""A transformer decoder with one learnable query a label: each label looks where it is seen in the picture.

PLL-FER (Wang, Sebe and Lepri 2022, arXiv:2209.15402, section 3.3) after DETR (Carion et al. 2020, arXiv:2005.12872) and
Query2Label (Liu et al. 2021, arXiv:2107.10834).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fer_app.errors import ConfigError
from models.vit import init_transformer_weights


def simplex(num_points: int, dim: int) -> Tensor:
    """Return points on the unit sphere that are as far from each other as so many can be: a regular simplex.

    The cosine of any two is -1 / (K - 1). Its orientation is drawn from torch's generator.

    Args:
        num_points: K, at least 2.
        dim: D, at least K.

    Returns:
        float32, (K, D).

    Raises:
        ConfigError: K is below 2 or above D.
    """
    if not 2 <= num_points <= dim:
        raise ConfigError(f"a simplex of {num_points} label queries does not fit into {dim} dimensions")
    basis = torch.linalg.qr(torch.randn(dim, num_points, dtype=torch.float64)).Q.T
    return nn.functional.normalize(basis - basis.mean(dim=0), dim=1).float()


class Attention(nn.Module):
    """Multi-head attention whose queries, keys and values come from different tokens, and which tells its weights.

    Args:
        dim: width of the tokens, a multiple of `num_heads`.
        num_heads: heads.
        dropout: of the weights, in training.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Let queries look at keys and take values.

        Args:
            queries: (B, K, D).
            keys: (B, N, D).
            values: (B, N, D).

        Returns:
            taken: (B, K, D).
            weights: (B, K, N), the mean over the heads, rows that sum to 1; without dropout.
        """
        q, k, v = self._heads(self.query(queries)), self._heads(self.key(keys)), self._heads(self.value(values))
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(dim=3)
        taken = (self.dropout(weights) @ v).transpose(1, 2).flatten(2)
        return self.proj(taken), weights.mean(dim=1)

    def _heads(self, tokens: Tensor) -> Tensor:
        """(B, n, D) to (B, heads, n, D / heads)."""
        batch, length, dim = tokens.shape
        return tokens.reshape(batch, length, self.num_heads, dim // self.num_heads).transpose(1, 2)


class LabelDecoderLayer(nn.Module):
    """One of DETR's decoder layers, normalised after each part: labels see each other, then the picture, then think.

    Args:
        dim: width of the tokens.
        num_heads: heads of both attentions.
        ffn_dim: hidden width of the feed-forward part.
        dropout: in training.
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(dim, num_heads, dropout)
        self.cross_attn = Attention(dim, num_heads, dropout)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ffn_dim, dim))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, labels: Tensor, positions: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Refine what is known of each label.

        Args:
            labels: (B, K, D), zeros at first.
            positions: (B, K, D), the label queries; they are added wherever labels ask, and to their own keys.
            memory: (B, N, D), the picture's tokens, which carry their positions already.

        Returns:
            labels: (B, K, D).
            weights: (B, K, N), where each label looked.
        """
        where = labels + positions
        seen, _ = self.self_attn(where, where, labels)
        labels = self.norm1(labels + self.dropout(seen))
        seen, weights = self.cross_attn(labels + positions, memory, memory)
        labels = self.norm2(labels + self.dropout(seen))
        return self.norm3(labels + self.dropout(self.ffn(labels))), weights


class LabelDecoder(nn.Module):
    """Tokens of a picture to one logit a label.

    Differs: the paper gives no size. The depth is Query2Label's; heads, feed-forward width and dropout are DETR's.

    Args:
        num_classes: K.
        dim: width D of the tokens.
        depth: layers.
        num_heads: attention heads.
        ffn_dim: hidden width of the feed-forward parts.
        dropout: in training.

    Raises:
        ConfigError: the heads do not divide the width, or there is no layer.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        depth: int = 2,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if dim % num_heads or depth < 1:
            raise ConfigError(
                f"a label decoder of width {dim} needs heads that divide it and a layer at least, "
                f"not {num_heads} heads and {depth} layers"
            )
        self.queries = nn.Parameter(torch.randn(num_classes, dim))
        self.layers = nn.ModuleList(LabelDecoderLayer(dim, num_heads, ffn_dim, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        # Every label has a linear layer of its own.
        self.weight = nn.Parameter(torch.empty(num_classes, dim).uniform_(-1, 1) / math.sqrt(dim))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.layers.apply(init_transformer_weights)

    @torch.no_grad()
    def spread_queries(self) -> None:
        """Put the queries where the uniform loss is lowest, as long as random ones are.

        Raises:
            ConfigError: there are more labels than dimensions.
        """
        num_classes, dim = self.queries.shape
        self.queries.copy_(simplex(num_classes, dim) * math.sqrt(dim))

    def forward(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Decode all labels.

        Args:
            memory: (B, N, D).

        Returns:
            decoded: (B, K, D).
            weights: (B, K, N), where each label looked in the last layer, the mean over its heads; rows sum to 1.
        """
        positions = self.queries.expand(memory.shape[0], -1, -1)
        labels, weights = torch.zeros_like(positions), positions
        for layer in self.layers:
            labels, weights = layer(labels, positions, memory)
        return self.norm(labels), weights

    def logits(self, decoded: Tensor) -> Tensor:
        """Return each label's logit: float32 also under autocast, (B, K)."""
        return (decoded.float() * self.weight).sum(dim=2) + self.bias
