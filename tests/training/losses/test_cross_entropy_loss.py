"""Cross-entropy against soft targets: a slow oracle for value and gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_app.errors import ConfigError
from training.losses.cross_entropy_loss import CrossEntropyLoss


def slow_cross_entropy(logits: list[list[float]], targets: list[list[float]], smoothing: float):
    """Return (value, gradient by the closed formula (softmax - target) / B)."""
    value, gradient = 0.0, []
    for row, target in zip(logits, targets, strict=True):
        smooth = [(1 - smoothing) * t + smoothing / len(target) for t in target]
        total = sum(math.exp(x) for x in row)
        value -= sum(t * (x - math.log(total)) for t, x in zip(smooth, row, strict=True))
        gradient.append([(math.exp(x) / total - t) / len(logits) for t, x in zip(smooth, row, strict=True)])
    return value / len(logits), gradient


@given(st.integers(1, 6), st.integers(2, 9), st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_value_and_gradient_equal_the_slow_ones(batch, classes, smoothing, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(batch, classes, generator=generator)).requires_grad_()
    targets = torch.rand(batch, classes, generator=generator).softmax(dim=1)
    loss = CrossEntropyLoss(smoothing)(logits, targets)
    value, gradient = slow_cross_entropy(logits.tolist(), targets.tolist(), smoothing)
    assert loss.item() == pytest.approx(value, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.tensor(gradient), rtol=1e-4, atol=1e-6)


def test_uniform_logits_cost_log_k():
    targets = torch.eye(8)
    assert CrossEntropyLoss()(torch.zeros(8, 8), targets).item() == pytest.approx(math.log(8))


def test_float32_from_half_precision():
    logits = torch.randn(4, 8, dtype=torch.bfloat16)
    targets = torch.rand(4, 8).softmax(dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = CrossEntropyLoss()(logits, targets)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, CrossEntropyLoss()(logits.float(), targets))


@pytest.mark.parametrize(("logits", "targets"), [((4, 8), (2, 8)), ((4, 8), (4,)), ((4, 8), (4, 7)), ((8,), (8,))])
def test_shapes_must_agree(logits, targets):
    with pytest.raises(ValueError, match=r"\(B, K\)"):
        CrossEntropyLoss()(torch.zeros(logits), torch.zeros(targets))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_has_a_range(smoothing):
    with pytest.raises(ConfigError, match="label_smoothing"):
        CrossEntropyLoss(smoothing)
