"""The uniform loss: value and gradient against a slow oracle, and where it is lowest."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fer_app.errors import ConfigError
from models.label_decoder import simplex
from training.losses.uniform_loss import UniformLoss


def slow_uniform(queries: Tensor, temperature: float) -> Tensor:
    """Equation 3, pair by pair."""
    rows = [torch.log(sum(torch.exp(own @ other / temperature) for other in queries)) for own in queries]
    return sum(rows) / len(rows)


@given(st.integers(1, 7), st.integers(1, 6), st.sampled_from([0.1, 0.5, 1.0]), st.integers(0, 2**31))
@settings(max_examples=40)
def test_value_and_gradient_equal_the_slow_ones(count, dim, temperature, seed):
    raw = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    ours = UniformLoss(temperature)(F.normalize(raw, dim=1))
    slow = slow_uniform(F.normalize(raw.double(), dim=1), temperature)
    torch.testing.assert_close(ours.double(), slow, rtol=1e-5, atol=1e-5)
    (gradient,), (slow_gradient,) = (torch.autograd.grad(loss, raw) for loss in (ours, slow))
    torch.testing.assert_close(gradient, slow_gradient, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(("temperature", "lowest"), [(0.1, 10.0001), (0.5, 2.5376), (1.0, 2.1732)])
def test_the_simplex_is_lowest(temperature, lowest):
    torch.manual_seed(0)
    loss = UniformLoss(temperature)
    points = simplex(8, 16)
    formula = math.log(math.exp(1 / temperature) + 7 * math.exp(-1 / (7 * temperature)))
    assert loss(points).item() == pytest.approx(formula, abs=1e-5)
    assert formula == pytest.approx(lowest, abs=1e-4)
    raw = points.clone().requires_grad_()
    loss(F.normalize(raw, dim=1)).backward()
    assert raw.grad.abs().max() < 1e-5  # along the sphere there is nowhere to go
    for _ in range(20):
        assert loss(F.normalize(points + 0.3 * torch.randn(8, 16), dim=1)) > lowest


def test_minimising_it_finds_the_simplex():
    torch.manual_seed(0)
    raw = torch.randn(8, 12, requires_grad=True)
    optimizer, loss = torch.optim.Adam([raw], lr=0.05), UniformLoss(0.5)
    for _ in range(300):
        optimizer.zero_grad()
        loss(F.normalize(raw, dim=1)).backward()
        optimizer.step()
    cosines = F.normalize(raw.detach(), dim=1) @ F.normalize(raw.detach(), dim=1).T
    torch.testing.assert_close(cosines, torch.full((8, 8), -1 / 7).fill_diagonal_(1.0), rtol=0, atol=0.01)


def test_autocast_changes_nothing():
    points = F.normalize(torch.randn(8, 12), dim=1)
    expected = UniformLoss()(points)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(UniformLoss()(points), expected)


def test_the_temperature_is_checked():
    with pytest.raises(ConfigError, match="temperature"):
        UniformLoss(0.0)
