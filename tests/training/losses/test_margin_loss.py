"""The margin loss: value and gradient against a slow oracle, and what it pulls and pushes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fer_app.errors import ConfigError
from training.losses.margin_loss import MarginLoss


def slow_margin_loss(z: Tensor, targets: list[list[float]], centroids: Tensor, margin: float) -> Tensor:
    """Sample by sample, class by class."""
    total = torch.zeros((), dtype=z.dtype)
    classes = len(centroids)
    for i, row in enumerate(targets):
        for j, weight in enumerate(row):
            for k in range(classes):
                if k != j:
                    gap = (z[i] - centroids[j]).square().sum() - (z[i] - centroids[k]).square().sum() + margin
                    if gap > 0:
                        total = total + weight * gap / (classes - 1)
    return total / len(targets)


@given(st.integers(1, 6), st.integers(2, 5), st.sampled_from([0.0, 0.3, 0.5, 2.0, 4.0]), st.integers(0, 2**31))
@settings(max_examples=60)
def test_value_and_gradient_equal_the_slow_ones(batch, classes, margin, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, 4, generator=generator, requires_grad=True)
    centroids = F.normalize(torch.randn(classes, 4, generator=generator), dim=1)
    targets = torch.rand(batch, classes, generator=generator).softmax(dim=1)
    loss = MarginLoss(margin)(F.normalize(features, dim=1), targets, centroids)
    slow = slow_margin_loss(F.normalize(features.double(), dim=1), targets.tolist(), centroids.double(), margin)
    torch.testing.assert_close(loss.double(), slow, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(loss, features)
    (slow_gradient,) = torch.autograd.grad(slow, features)
    torch.testing.assert_close(gradient, slow_gradient, rtol=1e-3, atol=1e-5)


def test_an_embedding_that_is_nearer_by_the_margin_costs_nothing():
    centroids = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    at_home = centroids[:1].clone().requires_grad_()
    loss = MarginLoss(1.9)(at_home, torch.tensor([[1.0, 0.0]]), centroids)  # squared distances 0 and 2
    assert loss.item() == 0.0
    assert MarginLoss(2.1)(at_home, torch.tensor([[1.0, 0.0]]), centroids).item() == pytest.approx(0.1)


def test_a_step_along_the_gradient_goes_home():
    torch.manual_seed(0)
    centroids = F.normalize(torch.randn(3, 5), dim=1)
    features = torch.randn(1, 5, requires_grad=True)
    targets = torch.tensor([[0.0, 1.0, 0.0]])
    for _ in range(200):
        loss = MarginLoss(4.0)(F.normalize(features, dim=1), targets, centroids)
        (gradient,) = torch.autograd.grad(loss, features)
        features = (features - 0.1 * gradient).detach().requires_grad_()
    distances = (F.normalize(features, dim=1) - centroids).square().sum(dim=1)
    assert distances.argmin() == 1


def test_length_cannot_make_it_smaller():
    """Embeddings have length 1, so the gradient of what they are made from has no part along itself."""
    features = torch.randn(4, 6, requires_grad=True)
    centroids = F.normalize(torch.randn(3, 6), dim=1)
    targets = torch.eye(3)[[0, 1, 2, 0]]
    (gradient,) = torch.autograd.grad(MarginLoss()(F.normalize(features, dim=1), targets, centroids), features)
    torch.testing.assert_close((gradient * features).sum(dim=1), torch.zeros(4), rtol=0, atol=1e-6)


def test_centroids_and_targets_get_no_gradient():
    centroids = F.normalize(torch.randn(3, 6), dim=1).requires_grad_()
    z = F.normalize(torch.randn(2, 6), dim=1).requires_grad_()
    MarginLoss(2.0)(z, torch.eye(3)[:2], centroids).backward()
    assert centroids.grad is None
    assert z.grad is not None


def test_float32_distances_under_autocast():
    z, centroids = F.normalize(torch.randn(16, 32), dim=1), F.normalize(torch.randn(8, 32), dim=1)
    targets = torch.rand(16, 8).softmax(dim=1)
    expected = MarginLoss()(z, targets, centroids)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(MarginLoss()(z, targets, centroids), expected)


def test_arguments_are_checked():
    for margin in (-0.1, math.nan):
        with pytest.raises(ConfigError, match="margin"):
            MarginLoss(margin)
    with pytest.raises(ValueError, match=r"\(M, D\), \(M, K\), \(K, D\)"):
        MarginLoss()(torch.randn(4, 3), torch.zeros(4, 2), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="two"):
        MarginLoss()(torch.randn(4, 3), torch.zeros(4, 1), torch.zeros(1, 3))
