"""Attention against torch's fused kernel and a loop over heads, queries and keys."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from models.attention import Attention


def fused(attention: Attention, x: torch.Tensor) -> torch.Tensor:
    """The path of other devices."""
    batch, tokens, dim = x.shape
    qkv = attention.qkv(x).reshape(batch, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(*qkv.unbind(0))
    return attention.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))


def slow(attention: Attention, x: torch.Tensor) -> torch.Tensor:
    """One sample, (n, D), number by number."""
    dim, heads = x.shape[1], attention.num_heads
    width = dim // heads
    qkv = attention.qkv(x)
    rows = []
    for query in range(len(x)):
        row = []
        for head in range(heads):
            columns = [slice(part * dim + head * width, part * dim + (head + 1) * width) for part in range(3)]
            weights = torch.stack(
                [(qkv[query, columns[0]] * qkv[key, columns[1]]).sum() / math.sqrt(width) for key in range(len(x))]
            ).exp()
            row.append(sum(w * qkv[key, columns[2]] for key, w in enumerate(weights)) / weights.sum())
        rows.append(torch.cat(row))
    return attention.proj(torch.stack(rows))


@pytest.mark.parametrize(("tokens", "heads"), [(1, 2), (5, 1), (9, 3)])
def test_value_and_gradients_equal_the_slow_ones(tokens, heads):
    torch.manual_seed(0)
    attention = Attention(12, heads)
    x = torch.randn(3, tokens, 12, requires_grad=True)
    outputs = [attention(x), fused(attention, x), torch.stack([slow(attention, sample) for sample in x])]
    weight = torch.randn_like(outputs[0])
    gradients = [torch.autograd.grad((y * weight).sum(), [x, *attention.parameters()]) for y in outputs]
    for other, other_gradients in zip(outputs[1:], gradients[1:], strict=True):
        torch.testing.assert_close(outputs[0], other, rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(gradients[0], other_gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.gpu
def test_the_gpu_computes_the_same():
    torch.manual_seed(0)
    attention, x = Attention(64, 2), torch.randn(3, 37, 64)
    torch.testing.assert_close(attention.cuda()(x.cuda()).cpu(), attention.cpu()(x), rtol=1e-3, atol=1e-3)


def test_masks_are_refused():
    attention = Attention(8, 2)
    with pytest.raises(ValueError, match="no masks"):
        attention(torch.zeros(1, 3, 8), attn_mask=torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="no masks"):
        attention(torch.zeros(1, 3, 8), is_causal=True)
