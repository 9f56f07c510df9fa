"""The supervised contrastive loss: closed values, a slow oracle for value and gradient, and edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fer_app.errors import ConfigError
from training.losses.scl_loss import SclLoss, contrastive_loss


def slow_contrastive(z: Tensor, positives: list[list[int]], temperature: float) -> Tensor:
    """Khosla et al., equation 2, anchor by anchor; `positives[i]` lists P(i)."""
    anchors = []
    for i, friends in enumerate(positives):
        if friends:
            others = [torch.exp(z[i] @ z[a] / temperature) for a in range(len(z)) if a != i]
            terms = [torch.log(torch.exp(z[i] @ z[p] / temperature) / sum(others)) for p in friends]
            anchors.append(-sum(terms) / len(friends))
    return sum(anchors) / len(anchors) if anchors else z.sum() * 0


def slow_scl(z: Tensor, labels: list[int], temperature: float) -> Tensor:
    positives = [[p for p in range(len(labels)) if p != i and labels[p] == labels[i]] for i in range(len(labels))]
    return slow_contrastive(z, positives, temperature)


@given(st.integers(1, 9), st.integers(1, 4), st.sampled_from([0.07, 0.3, 1.0]), st.integers(0, 2**31))
@settings(max_examples=40)
def test_value_and_gradient_equal_the_slow_ones(samples, classes, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(samples, 5, generator=generator, requires_grad=True)
    labels = torch.randint(classes, (samples,), generator=generator)
    loss = SclLoss(temperature)(F.normalize(features, dim=1), labels)
    slow = slow_scl(F.normalize(features.double(), dim=1), labels.tolist(), temperature)
    torch.testing.assert_close(loss.double(), slow, rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(loss, features)
    (slow_gradient,) = torch.autograd.grad(slow, features)
    torch.testing.assert_close(gradient, slow_gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_two_pairs_at_right_angles(temperature):
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    pull = 1 / temperature
    right = -pull + math.log(math.exp(pull) + 2)
    wrong = math.log(math.exp(pull) + 2)
    assert SclLoss(temperature)(z, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(right, rel=1e-4, abs=1e-5)
    assert SclLoss(temperature)(z, torch.tensor([0, 1, 0, 1])).item() == pytest.approx(wrong, rel=1e-4)


def test_identical_samples_of_one_class_cost_log_of_the_others():
    z = F.normalize(torch.ones(5, 3), dim=1)
    assert SclLoss()(z, torch.zeros(5, dtype=torch.long)).item() == pytest.approx(math.log(4), rel=1e-5)


def test_order_does_not_matter():
    z, labels = F.normalize(torch.randn(8, 4), dim=1), torch.tensor([0, 0, 1, 1, 2, 2, 2, 3])
    order = torch.randperm(8)
    torch.testing.assert_close(SclLoss()(z, labels), SclLoss()(z[order], labels[order]))


def test_anchors_without_a_positive_are_left_out_of_the_mean():
    z = F.normalize(torch.randn(5, 4), dim=1)
    labels = torch.tensor([0, 0, 1, 2, 3])
    similarity = z @ z.T / 0.07
    terms = [
        torch.logsumexp(similarity[i, [a for a in range(5) if a != i]], dim=0) - similarity[i, 1 - i] for i in (0, 1)
    ]
    torch.testing.assert_close(SclLoss()(z, labels), sum(terms) / 2)


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_no_positives_at_all_cost_nothing_and_move_nothing(samples):
    z = F.normalize(torch.randn(samples, 4), dim=1).requires_grad_()
    loss = SclLoss()(z, torch.arange(samples))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_the_diagonal_of_the_positives_is_ignored():
    z = F.normalize(torch.randn(6, 4), dim=1)
    positives = torch.rand(6, 6) < 0.5
    itself = torch.eye(6, dtype=torch.bool)
    torch.testing.assert_close(
        contrastive_loss(z, positives | itself, 0.1), contrastive_loss(z, positives & ~itself, 0.1)
    )


def test_float32_similarities_under_autocast():
    z, labels = F.normalize(torch.randn(16, 32), dim=1), torch.arange(16) % 3
    expected = SclLoss()(z, labels)
    with torch.autocast("cpu", torch.bfloat16):
        loss = SclLoss()(z, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_arguments_are_checked():
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="temperature"):
            SclLoss(temperature)
    with pytest.raises(ValueError, match=r"\(M, d\) and \(M,\)"):
        SclLoss()(torch.randn(4, 3), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(M, d\) and \(M,\)"):
        SclLoss()(torch.randn(4, 3), torch.zeros(4, 8))
