"""Sine-cosine position embeddings in MAE's order, and their resizing."""

from __future__ import annotations

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

TEMPERATURE = 10000.0


def sincos_1d(dim: int, positions: Tensor) -> Tensor:
    """Encode scalar positions with sines and cosines of geometrically falling frequencies.

    Args:
        dim: width of the code; even.
        positions: (M,), in tokens.

    Returns:
        float64, (M, dim): `[sin(p w_0), ..., sin(p w_{dim/2-1}), cos(p w_0), ...]` with `w_i = 10000^(-i / (dim / 2))`.
    """
    omega = TEMPERATURE ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = positions.to(torch.float64)[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(embed_dim: int, grid_size: tuple[int, int], cls_token: bool) -> Tensor:
    """Make the fixed 2-D position embedding of MAE (He et al. 2022, arXiv:2111.06377; `util/pos_embed.py`).

    The first half of a row encodes the token's *column*, the second half its *row*. MoCo v3 has the halves the other
    way round, and so has every setting of timm's function on a square grid: published MAE weights need this order.

    Args:
        embed_dim: width D; a multiple of 4.
        grid_size: (height, width) of the token grid; tokens are numbered row by row.
        cls_token: whether a row of zeros for the class token comes first.

    Returns:
        float32, (h * w, D), or (1 + h * w, D) with `cls_token`.

    Raises:
        ValueError: `embed_dim` is no multiple of 4.
    """
    if embed_dim % 4:
        raise ValueError(f"a 2-D sine-cosine embedding needs a multiple of 4 as its width, got {embed_dim}")
    height, width = grid_size
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.cat([sincos_1d(embed_dim // 2, columns.flatten()), sincos_1d(embed_dim // 2, rows.flatten())], dim=1)
    if cls_token:
        grid = torch.cat([grid.new_zeros(1, embed_dim), grid])
    return grid.to(torch.float32)


def resize_pos_embed(
    pos_embed: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], num_prefix_tokens: int = 1
) -> Tensor:
    """Resample a position embedding to another grid, for a checkpoint of another image size.

    Bicubic without anti-aliasing and without aligned corners, as MAE's `interpolate_pos_embed`; prefix rows are kept.

    Args:
        pos_embed: float, (1, P + h * w, D), with P prefix rows.
        old_grid: (h, w) of `pos_embed`.
        new_grid: (height, width) of the grid to make.
        num_prefix_tokens: P, the rows that belong to no position.

    Returns:
        (1, P + new height * new width, D), of the same dtype.

    Raises:
        ValueError: `pos_embed` is not as long as `old_grid` says.
    """
    expected = num_prefix_tokens + old_grid[0] * old_grid[1]
    if pos_embed.ndim != 3 or pos_embed.shape[1] != expected:
        raise ValueError(f"expected a position embedding of shape (1, {expected}, D), got {tuple(pos_embed.shape)}")
    resized: Tensor = resample_abs_pos_embed(
        pos_embed,
        new_size=list(new_grid),
        old_size=list(old_grid),
        num_prefix_tokens=num_prefix_tokens,
        interpolation="bicubic",
        antialias=False,
    )
    return resized
