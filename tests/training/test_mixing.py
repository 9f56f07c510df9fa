"""Mixup and CutMix: pixels and labels are mixed alike, from one source of chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_app.errors import ConfigError
from training.mixing import MixUpCutMix, random_box


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def batch_that_shows_its_classes(batch: int, views: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures with one channel per class, 1 everywhere in their own class's: their mean is their label."""
    classes = torch.from_numpy(rng(seed).integers(4, size=batch))
    targets = torch.nn.functional.one_hot(classes, 4).float()
    images = targets[:, :, None, None].expand(-1, -1, 12, 10)
    return images.repeat(views, 1, 1, 1), targets


@given(
    st.integers(1, 7), st.integers(1, 3), st.sampled_from([(0.8, 0.0), (0.0, 1.0), (2.0, 2.0)]), st.integers(0, 10_000)
)
@settings(max_examples=60)
def test_pixels_and_labels_have_the_same_shares_in_every_view(batch, views, alphas, seed):
    images, targets = batch_that_shows_its_classes(batch, views, seed)
    mixed, mixed_targets = MixUpCutMix(*alphas)(images, targets, rng(seed))
    assert mixed.shape == images.shape
    assert mixed_targets.shape == targets.shape
    torch.testing.assert_close(mixed_targets.sum(dim=1), torch.ones(batch))
    torch.testing.assert_close(mixed.mean(dim=(2, 3)), mixed_targets.repeat(views, 1), rtol=0, atol=1e-5)


def test_mixup_is_the_weighted_sum_with_the_mirror_row():
    images, targets = torch.randn(6, 3, 4, 4), torch.eye(3)
    mixed, mixed_targets = MixUpCutMix(2.0, 0.0)(images, targets, rng(3))
    lam = mixed_targets[0, 0].item()
    assert 0 < lam < 1
    for i in range(6):
        torch.testing.assert_close(mixed[i], lam * images[i] + (1 - lam) * images[5 - i])
    torch.testing.assert_close(mixed_targets, lam * targets + (1 - lam) * targets.flip(0))


def test_cutmix_pastes_one_box_of_the_mirror_row():
    images = torch.randn(4, 2, 20, 30)
    mixed, mixed_targets = MixUpCutMix(0.0, 1.0)(images, torch.eye(2), rng(5))
    pasted = (mixed != images).any(dim=1)
    assert all(torch.equal(pasted[0], other) for other in pasted)
    rows, columns = pasted[0].any(dim=1).nonzero().flatten(), pasted[0].any(dim=0).nonzero().flatten()
    box = (..., slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    assert pasted[0].sum() == len(rows) * len(columns) > 0
    assert torch.equal(mixed[box], images.flip(0)[box])
    assert mixed_targets[0, 0].item() == pytest.approx(1 - pasted[0].sum().item() / 600, abs=1e-6)


def test_the_same_chance_gives_the_same_batch():
    images, targets = torch.randn(4, 1, 8, 8), torch.eye(2)
    mix = MixUpCutMix(0.8, 1.0)
    before = torch.get_rng_state()
    first, again, other = (mix(images, targets, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_arguments_are_left_as_they_are():
    images, targets = torch.randn(4, 1, 8, 8), torch.eye(2)
    kept, kept_targets = images.clone(), targets.clone()
    for seed in range(8):
        MixUpCutMix(1.0, 1.0)(images, targets, rng(seed))
    assert torch.equal(images, kept)
    assert torch.equal(targets, kept_targets)


@pytest.mark.parametrize("mix", [MixUpCutMix(0.0, 0.0), MixUpCutMix(1.0, 1.0, prob=0.0)])
def test_off_changes_nothing(mix):
    images, targets = torch.randn(4, 1, 8, 8), torch.eye(2)
    mixed, mixed_targets = mix(images, targets, rng())
    assert torch.equal(mixed, images)
    assert torch.equal(mixed_targets, targets)


def kinds(mix: MixUpCutMix, draws: int = 400) -> dict[str, float]:
    """Shares of batches left alone, mixed up and cut."""
    images, targets = torch.zeros(2, 1, 16, 16), torch.eye(2)
    images[1] = 1.0
    counts = {"none": 0, "mixup": 0, "cutmix": 0}
    chance = rng(0)
    for _ in range(draws):
        values = mix(images, targets, chance)[0][0].unique()
        if len(values) == 2 or values.tolist() == [1.0]:
            counts["cutmix"] += 1
        else:
            counts["none" if values.item() == 0.0 else "mixup"] += 1
    return {kind: count / draws for kind, count in counts.items()}


def test_the_kinds_have_their_probabilities():
    half = kinds(MixUpCutMix(2.0, 2.0))
    assert half["mixup"] == pytest.approx(0.5, abs=0.08)
    assert half["cutmix"] == pytest.approx(0.5, abs=0.08)
    assert kinds(MixUpCutMix(2.0, 2.0, switch_prob=0.0), 50)["mixup"] == 1.0
    assert kinds(MixUpCutMix(2.0, 2.0, switch_prob=1.0), 50)["cutmix"] > 0.9
    assert kinds(MixUpCutMix(2.0, 0.0, prob=0.3))["mixup"] == pytest.approx(0.3, abs=0.08)


def test_weights_are_beta_distributed():
    images, targets = torch.zeros(2, 1, 1, 1), torch.eye(2)
    mix, chance = MixUpCutMix(2.0, 0.0), rng(0)
    weights = np.array([mix(images, targets, chance)[1][0, 0].item() for _ in range(2000)])
    assert weights.mean() == pytest.approx(0.5, abs=0.02)
    assert weights.var() == pytest.approx(1 / 20, abs=0.005)  # of Beta(2, 2)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.0, 1.0), st.integers(0, 10_000))
@settings(max_examples=60)
def test_boxes_stay_inside_and_are_never_larger_than_their_share(height, width, share, seed):
    y0, y1, x0, x1 = random_box(height, width, share, rng(seed))
    assert 0 <= y0 <= y1 <= height
    assert 0 <= x0 <= x1 <= width
    assert (y1 - y0) * (x1 - x0) <= share * height * width + 1e-6


def test_a_box_in_the_middle_keeps_its_share():
    areas = [random_box(100, 100, 0.25, rng(seed)) for seed in range(200)]
    assert max((y1 - y0) * (x1 - x0) for y0, y1, x0, x1 in areas) == 2500
    assert {y0 for y0, *_ in areas} > {0}


def test_views_must_be_whole():
    with pytest.raises(ValueError, match="5 pictures"):
        MixUpCutMix(1.0, 0.0)(torch.zeros(5, 1, 2, 2), torch.eye(2), rng())


@pytest.mark.parametrize(
    "arguments", [(-1.0, 0.0), (0.0, -1.0), (1.0, 1.0, 1.5), (1.0, 1.0, 1.0, -0.5)], ids=["mix", "cut", "p", "switch"]
)
def test_arguments_are_checked(arguments):
    with pytest.raises(ConfigError):
        MixUpCutMix(*arguments)
