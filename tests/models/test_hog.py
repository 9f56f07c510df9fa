"""Histograms of oriented gradients against a slow, obvious re-implementation, and the masked prediction of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fer_app.errors import ConfigError
from models.hog import HogAutoencoder, hog, hog_targets
from models.mae import MaskedAutoencoder
from models.vit import VisionTransformer, VitConfig

SMALL = VitConfig(img_size=16, patch_size=8, in_chans=2, embed_dim=8, depth=1, num_heads=2)


def mirrored(i: int, length: int) -> int:
    """The pixel at a place beyond the border: the border itself is not repeated."""
    return -i if i < 0 else 2 * (length - 1) - i if i >= length else i


def slow_window(side: int) -> list[list[float]]:
    profile = [math.exp(-(((i - (side - 1) / 2) / (side / 2)) ** 2) / 2) for i in range(side)]
    return [[a * b / sum(profile) ** 2 for b in profile] for a in profile]


def slow_hog(image: np.ndarray, cell: int, window: int = 0) -> np.ndarray:
    """One channel, pixel by pixel: (9, rows, columns)."""
    height, width = image.shape
    weights = slow_window(window) if window else [[1.0]]

    def at(y: int, x: int) -> float:
        return float(image[mirrored(y, height), mirrored(x, width)])

    cells = np.zeros((9, height // cell, width // cell))
    for y in range(height):
        for x in range(width):
            gx = sum(w * (at(y + d, x - 1) - at(y + d, x + 1)) for d, w in ((-1, 1), (0, 2), (1, 1)))
            gy = sum(w * (at(y - 1, x + d) - at(y + 1, x + d)) for d, w in ((-1, 1), (0, 2), (1, 1)))
            place = math.floor(math.atan2(gx, gy) / math.pi * 9) % 9
            cells[place, y // cell, x // cell] += math.hypot(gx, gy) * weights[y % len(weights)][x % len(weights)]
    norms = np.sqrt((cells**2).sum(axis=0))
    return cells / np.maximum(norms, 1e-12)


@pytest.mark.parametrize(("cell", "window"), [(4, 0), (8, 0), (8, 8), (4, 16)])
def test_equals_the_slow_one(cell: int, window: int) -> None:
    images = np.random.default_rng(cell + window).normal(size=(2, 3, 16, 32)).astype(np.float32)
    found = hog(torch.from_numpy(images), cell, window)
    assert found.dtype == torch.float32
    assert found.shape == (2, 3, 9, 16 // cell, 32 // cell)
    slow = np.stack([np.stack([slow_hog(channel, cell, window) for channel in image]) for image in images])
    np.testing.assert_allclose(found.numpy(), slow, atol=1e-5)


def test_published_shapes() -> None:
    images = torch.randn(2, 3, 224, 224)
    assert hog(images).shape == (2, 3, 9, 28, 28)
    assert hog_targets(images, 16).shape == (2, 196, 108)


@pytest.mark.parametrize(("axis", "filled"), [(3, 4), (2, 0)], ids=["vertical edge", "horizontal edge"])
def test_an_edge_fills_one_bin(axis: int, filled: int) -> None:
    images = torch.zeros(1, 1, 16, 16)
    images.narrow(axis, 4, 12).fill_(1.0)
    found = hog(images)[0, 0, :, 0, 0]
    assert found.tolist() == [float(k == filled) for k in range(9)]


@pytest.mark.parametrize("sign", [1, -1])
def test_orientation_has_no_sign(sign: int) -> None:
    images = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(hog(sign * images), hog(images), atol=1e-4, rtol=0)


def test_a_cell_without_gradient_is_zeros() -> None:
    found = hog(torch.full((1, 2, 16, 16), 0.7))
    assert torch.equal(found, torch.zeros_like(found))


def test_brightness_and_contrast_do_not_count() -> None:
    images = torch.randn(2, 1, 24, 24)
    torch.testing.assert_close(hog(3 * images + 5, 8), hog(images, 8), atol=1e-3, rtol=0)


def test_values_of_a_patch_are_in_order() -> None:
    images = torch.randn(2, 2, 16, 24)
    cells, patches = hog(images, 4), hog_targets(images, 8, 4)
    assert patches.shape == (2, 6, 72)
    for b, row, column in np.ndindex(2, 2, 3):
        flat = [
            cells[b, c, k, 2 * row + i, 2 * column + j].item()
            for c in range(2)
            for k in range(9)
            for i in range(2)
            for j in range(2)
        ]
        assert patches[b, row * 3 + column].tolist() == flat


def test_autocast_changes_nothing() -> None:
    images = torch.randn(2, 1, 16, 16)
    expected = hog(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(hog(images), expected)


@pytest.mark.parametrize(("cell", "window"), [(7, 0), (8, 12)])
def test_a_picture_that_is_no_whole_number_of_cells_is_refused(cell: int, window: int) -> None:
    with pytest.raises(ValueError, match="no whole number"):
        hog(torch.zeros(1, 1, 16, 16), cell, window)


# --- the masked prediction ------------------------------------------------------------------------------------------


def make_model(**kwargs: int) -> HogAutoencoder:
    torch.manual_seed(0)
    return HogAutoencoder(VisionTransformer(SMALL), 12, 1, 3, **{"cell_px": 4, **kwargs})


def slow_loss(images: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
    """Mean over removed patches and their 72 values, patch by patch."""
    errors = []
    for image, guesses, removed in zip(images, pred, mask.tolist(), strict=True):
        channels = [slow_hog(channel.numpy(), 4) for channel in image]
        for patch, is_removed in enumerate(removed):
            if is_removed:
                row, column = 2 * (patch // 2), 2 * (patch % 2)
                wanted = np.stack([c[:, row : row + 2, column : column + 2] for c in channels]).ravel()
                errors.append((guesses[patch].double() - torch.from_numpy(wanted)) ** 2)
    return torch.cat(errors).mean()


def test_loss_and_gradient_equal_the_slow_ones() -> None:
    model, images = make_model(), torch.randn(3, 2, 16, 16)
    pred = torch.randn(3, 4, 72, requires_grad=True)
    mask = torch.tensor([[0.0, 1, 0, 1], [1, 0, 0, 1], [0, 0, 1, 1]])
    ours, slow = model.forward_loss(images, pred, mask), slow_loss(images, pred, mask)
    torch.testing.assert_close(ours.double(), slow, rtol=1e-5, atol=0)
    (gradient,), (slow_gradient,) = (torch.autograd.grad(loss, pred) for loss in (ours, slow))
    torch.testing.assert_close(gradient, slow_gradient, rtol=1e-4, atol=1e-6)
    assert not gradient[0, 0].any()  # of a patch that was seen


def test_it_masks_four_tenths_and_predicts_the_whole_model() -> None:
    model, images = make_model(), torch.randn(2, 2, 16, 16)
    loss, pred, mask = model(images)
    assert pred.shape == (2, 4, 72)
    assert mask.sum(dim=1).tolist() == [2.0, 2.0]  # 2 of 4 are kept: int(4 * 0.6)
    loss.backward()
    still = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert still == []


def test_the_encoder_is_that_of_any_other_pretraining() -> None:
    ours = make_model().encoder.state_dict()
    theirs = MaskedAutoencoder(VisionTransformer(SMALL), 12, 1, 3).encoder.state_dict()
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in theirs.items()}


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="HOG cells of 3 px"):
        make_model(cell_px=3)
    with pytest.raises(ConfigError, match="HOG windows of 12 px"):
        make_model(gaussian_window=12)
