"""Cross-entropy against soft targets: a slow oracle for value and gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fer_app.errors import ConfigError
from training.losses.cross_entropy_loss import CrossEntropyLoss, class_weights


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
@settings(max_examples=30)
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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_is_torchs_weighted_mean_for_hard_labels(smoothing):
    logits = (3 * torch.randn(16, 5)).requires_grad_()
    labels, weights = torch.randint(5, (16,)), torch.rand(5) + 0.1
    ours = CrossEntropyLoss(smoothing, weights)(logits, F.one_hot(labels, 5).float())
    theirs = F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_a_weighted_mixture_is_that_much_of_both_classes():
    """Its value and gradient are those of hard labels that come in these proportions."""
    logits = torch.randn(1, 4).requires_grad_()
    weights, mixture = torch.tensor([1.0, 2.0, 0.5, 9.0]), torch.tensor([[0.25, 0.0, 0.75, 0.0]])
    ours = CrossEntropyLoss(0.0, weights)(logits, mixture)
    theirs = F.cross_entropy(logits.expand(4, 4), torch.tensor([0, 2, 2, 2]), weight=weights)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_equal_weights_are_no_weights():
    logits, targets = torch.randn(6, 3), torch.randn(6, 3).softmax(dim=1)
    for smoothing in (0.0, 0.1):
        plain, weighted = CrossEntropyLoss(smoothing), CrossEntropyLoss(smoothing, torch.full((3,), 7.0))
        torch.testing.assert_close(weighted(logits, targets), plain(logits, targets))


def test_class_weights_average_to_one_over_the_samples():
    classes = torch.tensor([0] * 6 + [1] * 3 + [3])
    assert class_weights("none", classes, 4) is None
    inverse = class_weights("inverse", classes, 4)
    assert inverse.tolist() == pytest.approx([10 / 18, 10 / 9, 0.0, 10 / 3])
    effective = class_weights("effective", classes, 4)
    assert effective[classes].mean().item() == pytest.approx(1.0)
    assert effective.tolist() == pytest.approx(inverse.tolist(), rel=1e-3)  # so it is for few samples
    many = class_weights("effective", torch.tensor([0] * 100_000 + [1] * 10_000), 2)
    # E_n = (1 - b^n) / (1 - b): 9999.55 against 6321.39.
    assert (many[1] / many[0]).item() == pytest.approx(9999.55 / 6321.39, rel=1e-4)
