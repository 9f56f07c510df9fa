"""Position embeddings against MAE's formula and timm's."""

from __future__ import annotations

import math

import pytest
import torch
from timm.layers import build_sincos2d_pos_embed
from torch.nn import functional as F

from models.pos_embed import resize_pos_embed, sincos_2d


def slow_sincos(embed_dim: int, height: int, width: int) -> torch.Tensor:
    """MAE's formula entry by entry: first half the column, second half the row; sines, then cosines."""
    quarter = embed_dim // 4
    rows = []
    for y in range(height):
        for x in range(width):
            row = []
            for position in (x, y):
                angles = [position / 10000 ** (i / quarter) for i in range(quarter)]
                row += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(("dim", "grid"), [(8, (2, 3)), (192, (6, 6)), (64, (1, 1)), (12, (5, 2))])
def test_equals_the_closed_formula(dim, grid):
    made = sincos_2d(dim, grid, cls_token=False)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made.double(), slow_sincos(dim, *grid), rtol=0, atol=1e-6)


def test_class_token_row_is_zero_and_comes_first():
    made = sincos_2d(16, (3, 3), cls_token=True)
    assert made.shape == (10, 16)
    assert not made[0].any()
    assert torch.equal(made[1:], sincos_2d(16, (3, 3), cls_token=False))


def test_is_timms_with_the_halves_swapped():
    theirs = build_sincos2d_pos_embed([14, 14], 768, interleave_sin_cos=True)
    swapped = torch.cat([theirs[:, 384:], theirs[:, :384]], dim=1)
    made = sincos_2d(768, (14, 14), cls_token=False)
    torch.testing.assert_close(made, swapped, rtol=0, atol=2e-6)
    assert (made - theirs).abs().max() > 0.5, "the order matters"


def test_width_must_divide_by_four():
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_2d(10, (2, 2), cls_token=False)


def test_resize_keeps_the_same_grid_and_the_prefix():
    pos = torch.randn(1, 1 + 9, 8)
    assert torch.equal(resize_pos_embed(pos, (3, 3), (3, 3)), pos)
    assert torch.equal(resize_pos_embed(pos, (3, 3), (5, 4))[:, 0], pos[:, 0])


@pytest.mark.parametrize("new", [(7, 7), (2, 2), (4, 6)])
def test_resize_is_maes_bicubic(new):
    pos = torch.randn(1, 2 + 12, 8)
    made = resize_pos_embed(pos, (4, 3), new, num_prefix_tokens=2)
    grid = pos[:, 2:].reshape(1, 4, 3, 8).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, mode="bicubic", align_corners=False)
    torch.testing.assert_close(made[:, 2:], grid.permute(0, 2, 3, 1).flatten(1, 2))


def test_resize_with_as_many_tokens_in_another_shape_still_resizes():
    pos = torch.randn(1, 12, 8)
    made = resize_pos_embed(pos, (3, 4), (4, 3), num_prefix_tokens=0)
    assert made.shape == pos.shape
    assert not torch.allclose(made, pos)


def test_resize_refuses_a_grid_that_is_not_the_embeddings():
    with pytest.raises(ValueError, match=r"\(1, 17, D\)"):
        resize_pos_embed(torch.zeros(1, 16, 8), (4, 4), (5, 5))
