"""The mix-supervised contrastive loss: which mixtures are positives, and value and gradient against a slow oracle."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fer_app.errors import ConfigError
from training.losses.mscl_loss import MsclLoss, mixed_positives
from training.losses.scl_loss import SclLoss


def slow_positives(targets: list[list[float]], threshold: float, anchor: str) -> list[list[int]]:
    """Equation 13, pair by pair, with half the sum of absolute differences as its distance."""
    rows = []
    for i, own in enumerate(targets):
        if anchor == "dominant":
            top = own.index(max(own))
            own = [float(k == top) for k in range(len(own))]
        distances = [sum(abs(a - b) for a, b in zip(own, other, strict=True)) / 2 for other in targets]
        rows.append([p for p, distance in enumerate(distances) if p != i and distance <= threshold + 1e-6])
    return rows


def slow_mscl(z: Tensor, targets: list[list[float]], temperature: float, threshold: float, anchor: str) -> Tensor:
    anchors = []
    for i, friends in enumerate(slow_positives(targets, threshold, anchor)):
        if friends:
            total = sum(torch.exp(z[i] @ z[a] / temperature) for a in range(len(z)) if a != i)
            terms = [z[i] @ z[p] / temperature - torch.log(total) for p in friends]
            anchors.append(-sum(terms) / len(friends))
    return sum(anchors) / len(anchors) if anchors else z.sum() * 0


def mixed_batch(batch: int, classes: int, lam: float, generator: torch.Generator) -> Tensor:
    """Targets of two views of a batch mixed with its mirror, (2B, K)."""
    y = F.one_hot(torch.randint(classes, (batch,), generator=generator), classes).float()
    return (lam * y + (1 - lam) * y.flip(0)).repeat(2, 1)


@given(
    st.integers(1, 5),
    st.integers(2, 5),
    st.floats(0.0, 1.0),
    st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]),
    st.sampled_from(["dominant", "soft"]),
    st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_value_and_gradient_equal_the_slow_ones(batch, classes, lam, threshold, anchor, seed):
    generator = torch.Generator().manual_seed(seed)
    targets = mixed_batch(batch, classes, lam, generator)
    features = torch.randn(2 * batch, 4, generator=generator, requires_grad=True)
    loss = MsclLoss(0.1, threshold, anchor)(F.normalize(features, dim=1), targets)
    slow = slow_mscl(F.normalize(features.double(), dim=1), targets.tolist(), 0.1, threshold, anchor)
    torch.testing.assert_close(loss.double(), slow, rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(loss, features)
    (slow_gradient,) = torch.autograd.grad(slow, features)
    torch.testing.assert_close(gradient, slow_gradient, rtol=1e-3, atol=1e-4)


@given(st.integers(1, 40), st.floats(0.0, 1.0).filter(lambda lam: abs(lam - 0.5) > 1e-3), st.integers(0, 2**31))
@settings(max_examples=40)
def test_the_default_is_scl_with_the_dominant_classes(batch, lam, seed):
    generator = torch.Generator().manual_seed(seed)
    targets = mixed_batch(batch, 8, lam, generator)
    z = F.normalize(torch.randn(2 * batch, 16, generator=generator), dim=1).requires_grad_()
    ours, theirs = MsclLoss()(z, targets), SclLoss()(z, targets.argmax(dim=1))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    ours_gradient, theirs_gradient = (torch.autograd.grad(loss, z)[0] for loss in (ours, theirs))
    torch.testing.assert_close(ours_gradient, theirs_gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("weight", "threshold", "positive"),
    [(1.0, 0.0, True), (0.5, 0.5, True), (0.499, 0.5, False), (0.7, 0.3, True), (0.69, 0.3, False)],
)
def test_a_mixture_is_positive_by_the_weight_of_the_anchors_class(weight, threshold, positive):
    targets = torch.tensor([[1.0, 0.0, 0.0], [weight, 1 - weight, 0.0]])
    assert mixed_positives(targets, threshold, "dominant")[0, 1].item() is positive


def test_a_mixture_without_the_anchors_class_is_negative():
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    for threshold in (0.0, 0.5, 0.99):
        assert not mixed_positives(targets, threshold, "dominant")[0, 1]


def test_at_one_half_both_classes_count_whatever_the_rounding():
    third = torch.tensor(1.0) / 3
    half = (third + 0.5 * third).item()  # 0.5 within rounding
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [half, 1 - half]])
    assert mixed_positives(targets, 0.5, "dominant")[:2, 2].all()


@pytest.mark.parametrize(("lam", "swapped_pairs_count"), [(0.2, False), (0.3, True), (0.7, True), (0.8, False)])
def test_soft_anchors_also_take_swapped_pairs_from_a_quarter_on(lam, swapped_pairs_count):
    targets = torch.tensor([[lam, 1 - lam, 0.0], [1 - lam, lam, 0.0]])
    assert mixed_positives(targets, 0.5, "soft")[0, 1].item() is swapped_pairs_count
    assert not mixed_positives(targets, 0.5, "dominant")[0, 1]


def test_disjoint_vote_distributions_are_negative():
    # The largest difference between these is only 0.5: the maximum norm would call them positive.
    targets = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])
    assert not mixed_positives(targets, 0.5, "soft")[0, 1]


def test_with_both_views_no_anchor_is_without_a_positive():
    generator = torch.Generator().manual_seed(0)
    for lam in torch.rand(50, generator=generator).tolist():
        positives = mixed_positives(mixed_batch(7, 8, lam, generator), 0.5, "dominant")
        positives.fill_diagonal_(False)
        assert positives.any(dim=1).all()


def test_targets_get_no_gradient():
    targets = torch.rand(4, 3).softmax(dim=1).requires_grad_()
    z = F.normalize(torch.randn(4, 5), dim=1).requires_grad_()
    MsclLoss(threshold=0.9)(z, targets).backward()
    assert targets.grad is None
    assert z.grad is not None


def test_no_positives_at_all_cost_nothing_and_move_nothing():
    z = F.normalize(torch.randn(3, 5), dim=1).requires_grad_()
    loss = MsclLoss()(z, torch.eye(3))
    loss.backward()
    assert loss.item() == 0.0
    assert not z.grad.any()


def test_float32_similarities_under_autocast():
    z = F.normalize(torch.randn(16, 32), dim=1)
    targets = mixed_batch(8, 4, 0.6, torch.Generator().manual_seed(0))
    expected = MsclLoss()(z, targets)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(MsclLoss()(z, targets), expected)


def test_arguments_are_checked():
    with pytest.raises(ConfigError, match="temperature"):
        MsclLoss(0.0)
    for threshold in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match="threshold"):
            MsclLoss(threshold=threshold)
    with pytest.raises(ConfigError, match="dominant, soft"):
        MsclLoss(anchor="hard")
    with pytest.raises(ValueError, match=r"\(M, d\) and \(M, K\)"):
        MsclLoss()(torch.randn(4, 3), torch.zeros(2, 8))
