"""The partial-label loss: value and gradient against a slow oracle."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from training.losses.pll_loss import PllLoss


def slow_pll(logits: Tensor, confidences: list[list[float]]) -> Tensor:
    """Equation 2, term by term."""
    total = torch.zeros((), dtype=logits.dtype)
    for row, sure in zip(logits, confidences, strict=True):
        whole = sum(torch.exp(value) for value in row)
        total = total - sum(c * torch.log(torch.exp(row[j]) / whole) for j, c in enumerate(sure) if c)
    return total / len(confidences)


@given(st.integers(1, 6), st.integers(2, 6), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=40)
def test_value_and_gradient_equal_the_slow_ones(batch, classes, literal, seed):
    generator = torch.Generator().manual_seed(seed)
    confidences = (torch.rand(batch, classes, generator=generator) < 0.5).float()
    confidences[:, 0] = 1.0
    if not literal:
        confidences = confidences / confidences.sum(dim=1, keepdim=True)
    logits = torch.randn(batch, classes, generator=generator, requires_grad=True)
    ours, slow = PllLoss()(logits, confidences), slow_pll(logits.double(), confidences.tolist())
    torch.testing.assert_close(ours.double(), slow, rtol=1e-5, atol=1e-6)
    (gradient,), (slow_gradient,) = (torch.autograd.grad(loss, logits) for loss in (ours, slow))
    torch.testing.assert_close(gradient, slow_gradient, rtol=1e-4, atol=1e-6)


def test_one_candidate_is_cross_entropy():
    logits, labels = torch.randn(5, 8), torch.tensor([0, 3, 7, 3, 1])
    torch.testing.assert_close(PllLoss()(logits, F.one_hot(labels, 8).float()), F.cross_entropy(logits, labels))


def test_confidences_get_no_gradient_and_a_known_value():
    confidences = torch.tensor([[0.5, 0.5, 0.0]], requires_grad=True)
    loss = PllLoss()(torch.zeros(1, 3, requires_grad=True), confidences)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))
    assert confidences.grad is None


def test_half_precision_logits_are_computed_with_as_float32():
    logits = torch.randn(4, 8).bfloat16()
    assert torch.equal(PllLoss()(logits, torch.eye(8)[:4]), PllLoss()(logits.float(), torch.eye(8)[:4]))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(B, K\)"):
        PllLoss()(torch.zeros(4, 8), torch.zeros(4, 7))
