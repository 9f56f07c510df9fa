"""Two views of a picture: each its own augmentation, the second solarised as PIL does."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps

from training.augment import AugmentSpec, BatchAugment
from training.two_views import TwoViews, solarize

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES = torch.randint(0, 256, (6, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def augment(**knobs: float) -> BatchAugment:
    return BatchAugment(AugmentSpec.model_validate(knobs), 20, MEAN, STD)


def test_each_view_has_its_own_knobs_and_draws() -> None:
    first, second = augment(brightness=0.4, hflip=0.5), augment(contrast=0.4, hflip=0.5)
    views = TwoViews(first, second, 0.0)
    draws = torch.rand(6, views.n_draws)
    assert views.n_draws == 2 * len(draws[0, :-1]) // 2 + 1
    one, two = views(IMAGES, draws)
    assert torch.equal(one, first(IMAGES, draws[:, : first.n_draws]))
    assert torch.equal(two, second(IMAGES, draws[:, first.n_draws : -1]))
    assert not torch.allclose(one, two)


def test_plain_views_are_the_picture() -> None:
    views = TwoViews(augment(), augment(), 0.0)
    one, two = views(IMAGES, torch.rand(6, views.n_draws))
    assert torch.equal(one, two)
    assert torch.equal(one, augment()(IMAGES, torch.rand(6, augment().n_draws)))


def test_solarised_as_pil_does_and_the_second_view_alone() -> None:
    views = TwoViews(augment(), augment(), 0.5)
    draws = torch.rand(6, views.n_draws)
    draws[:, -1] = torch.tensor([0.49, 0.5, 0.0, 0.9, 0.51, 0.2])
    one, two = views(IMAGES, draws)
    for i, chosen in enumerate([True, False, True, False, False, True]):
        picture = Image.fromarray(IMAGES[i].permute(1, 2, 0).numpy())
        expected = np.asarray(ImageOps.solarize(picture) if chosen else picture, np.float32) / 255
        found = two[i].permute(1, 2, 0).numpy() * STD + MEAN
        assert np.allclose(found, expected, atol=1e-5)
    assert torch.equal(one, augment()(IMAGES, draws[:, : augment().n_draws]))


def test_the_limit_of_solarising() -> None:
    mean, std = torch.tensor(MEAN).reshape(1, 3, 1, 1), torch.tensor(STD).reshape(1, 3, 1, 1)
    values = torch.tensor([127.0, 128.0, 255.0, 0.0]) / 255
    images = (values.expand(1, 3, 1, 4) - mean) / std
    found = solarize(images, torch.tensor([True]), mean, std) * std + mean
    torch.testing.assert_close(found[0, 0, 0] * 255, torch.tensor([127.0, 127.0, 0.0, 0.0]), rtol=0, atol=1e-3)
