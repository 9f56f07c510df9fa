"""Self-attention that is fast on the device it runs on."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention among all tokens, with timm's parameter names (`qkv`, `proj`).

    On a CPU the products are written out: there torch's fused kernel is several times slower at a transformer's short
    sequences, above all backwards. Elsewhere the fused kernel is the fast one, and saves the memory of the weights.

    Args:
        dim: width D of the tokens.
        num_heads: heads; must divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend.

        Args:
            x: (B, n, D).
            attn_mask: part of timm's signature; every token sees every token here.
            is_causal: likewise.

        Returns:
            (B, n, D).

        Raises:
            ValueError: a mask is asked for.
        """
        if attn_mask is not None or is_causal:
            raise ValueError("this attention has no masks")
        batch, num_tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, num_tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if x.device.type == "cpu":
            mixed = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        output: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, num_tokens, dim))
        return output
