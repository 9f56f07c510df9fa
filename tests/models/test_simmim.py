"""SimMIM against a slow, obvious re-implementation: masks, what is seen, the loss and its gradients, any stem."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fer_app.errors import ConfigError
from models.mae import MaskedAutoencoder
from models.simmim import SimMim, random_block_mask
from models.vit import VisionTransformer, VitConfig

PATCH = VitConfig(img_size=16, patch_size=4, in_chans=2, embed_dim=8, depth=2, num_heads=2)
CONV = dataclasses.replace(PATCH, patch_size=8, stem="conv", stem_channels=(4, 6, 6, 8), depth=1)
STEMS = {"patch": PATCH, "conv": CONV, "no class token": dataclasses.replace(CONV, class_token=False)}


def make(config: VitConfig = CONV, mask_px: int = 4, mask_ratio: float = 0.6) -> SimMim:
    torch.manual_seed(0)
    network = SimMim(VisionTransformer(config), mask_px, mask_ratio)
    for parameter in network.parameters():  # so that biases, norms and the mask's value count
        torch.nn.init.normal_(parameter, std=0.3)
    return network


# --- masking -------------------------------------------------------------------------------------------------------


def slow_mask(noise: list[float], ratio: float, rows: int, columns: int, block: int) -> Tensor:
    order = sorted(range(rows * columns), key=noise.__getitem__)
    masked = order[: math.ceil(rows * columns * ratio)]
    grid = torch.zeros(rows * block, columns * block, dtype=torch.bool)
    for i in masked:
        row, column = divmod(i, columns)
        grid[row * block : (row + 1) * block, column * block : (column + 1) * block] = True
    return grid.flatten()


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.floats(0.05, 0.95), st.integers(0, 2**31))
@settings(max_examples=40)
def test_blocks_equal_the_slow_ones(rows: int, columns: int, block: int, ratio: float, seed: int) -> None:
    noise = torch.rand(3, rows * columns, generator=torch.Generator().manual_seed(seed))
    grid = rows * block, columns * block
    if not 1 <= math.ceil(rows * columns * ratio) < rows * columns:
        with pytest.raises(ConfigError, match="both parts need one"):
            random_block_mask(noise, ratio, grid, block)
        return
    mask = random_block_mask(noise, ratio, grid, block)
    for row, draws in zip(mask, noise.tolist(), strict=True):
        assert torch.equal(row, slow_mask(draws, ratio, rows, columns, block))


def test_counts_of_simmim() -> None:
    mask = random_block_mask(torch.rand(5, 49), 0.6, (14, 14), 2)  # 224 px, patches of 16, blocks of 32
    assert mask.sum(dim=1).tolist() == [4 * 30] * 5  # ceil(49 * 0.6) blocks
    assert not torch.equal(mask[0], mask[1])
    with pytest.raises(ConfigError, match="do not fill"):
        random_block_mask(torch.rand(1, 9), 0.6, (14, 14), 4)


@pytest.mark.parametrize(
    ("side", "mask_px", "squares", "masked"), [(192, 32, 36, 22), (224, 32, 49, 30), (48, 8, 36, 22), (32, 8, 16, 10)]
)
def test_squares_are_their_own_setting(side: int, mask_px: int, squares: int, masked: int) -> None:
    """Patches of 16 px, of which a picture of 48 px has nine: the squares are smaller, or larger."""
    config = VitConfig(img_size=side, patch_size=16, in_chans=1, embed_dim=8, depth=1, num_heads=2)
    network = SimMim(VisionTransformer(config), mask_px)
    assert network.num_squares == squares
    mask = network.mask(torch.rand(3, squares))
    assert mask.shape == (3, 1, side, side)
    assert mask.sum(dim=(1, 2, 3)).tolist() == [masked * mask_px**2] * 3
    by_square = mask.reshape(3, side // mask_px, mask_px, side // mask_px, mask_px)
    assert torch.equal(by_square.any(dim=4).any(dim=2), by_square.all(dim=4).all(dim=2))


def test_masks_are_drawn_anew_where_no_noise_is_given() -> None:
    network, images = make(), torch.randn(2, 2, 16, 16)
    first, second = (network(images)[2] for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


# --- the whole network ---------------------------------------------------------------------------------------------


def slow_simmim(network: SimMim, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel by pixel around the encoder; returns (loss, pred)."""
    config = network.encoder.config
    side, patch, channels = config.img_size, config.patch_size, config.in_chans
    per_row = side // network.mask_px
    hidden = []
    for draws in noise.tolist():
        order = sorted(range(per_row**2), key=draws.__getitem__)
        hidden.append(set(order[: math.ceil(per_row**2 * network.mask_ratio)]))
    rows = []
    for image, squares in zip(images, hidden, strict=True):
        for c in range(channels):
            for y in range(side):
                for x in range(side):
                    masked = y // network.mask_px * per_row + x // network.mask_px in squares
                    rows.append(network.mask_value[0, c, 0, 0] if masked else image[c, y, x])
    seen = torch.stack(rows).reshape(images.shape)
    tokens = network.encoder.forward_features(seen)
    errors, pred = [], torch.empty_like(images)
    for b, squares in enumerate(hidden):
        for y in range(side):
            for x in range(side):
                token = tokens[b, network.encoder.num_prefix_tokens + y // patch * (side // patch) + x // patch]
                for c in range(channels):
                    row = ((y % patch) * patch + x % patch) * channels + c
                    value = network.head.weight[row] @ token + network.head.bias[row]
                    pred[b, c, y, x] = value.detach()
                    if y // network.mask_px * per_row + x // network.mask_px in squares:
                        errors.append((value - images[b, c, y, x]).abs())
    return torch.stack(errors).mean(), pred


@pytest.mark.parametrize("stem", STEMS)
def test_loss_prediction_and_gradients_equal_the_slow_ones(stem: str) -> None:
    """In training mode: a convolutional stem's norms see the masked pictures."""
    network = make(STEMS[stem])
    slow = copy.deepcopy(network)
    images, noise = torch.randn(3, 2, 16, 16), torch.rand(3, 16)
    loss, pred, _ = network(images, noise)
    slow_loss, slow_pred = slow_simmim(slow, images, noise)
    torch.testing.assert_close(loss, slow_loss)
    torch.testing.assert_close(pred, slow_pred, rtol=1e-4, atol=1e-5)
    loss.backward()
    slow_loss.backward()
    for (name, ours), theirs in zip(network.named_parameters(), slow.parameters(), strict=True):
        assert (ours.grad is None) == (name == "encoder.pos_embed"), name
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert network.mask_value.grad is not None
    assert network.mask_value.grad.any(dim=1).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stem", STEMS)
def test_no_masked_pixel_reaches_the_encoder(stem: str, training: bool) -> None:
    network = make(STEMS[stem]).train(training)
    images, noise = torch.randn(2, 2, 16, 16, requires_grad=True), torch.rand(2, 16)
    loss, pred, mask = network(images, noise)
    (reached,) = torch.autograd.grad(pred.square().sum(), images, retain_graph=True)
    assert not (reached * mask).any()
    assert (reached[~mask.expand_as(reached)] != 0).all()
    again, same, _ = network(images + mask * 10 * torch.randn(2, 2, 16, 16), noise)
    assert torch.equal(pred, same)
    assert loss != again


def test_unmasked_pixels_have_no_loss_and_masked_ones_an_absolute_one() -> None:
    network, images = make(), torch.randn(2, 2, 16, 16)
    mask = network.mask(torch.rand(2, 16))
    assert network.forward_loss(images, torch.where(mask, images, 9.0), mask) == 0
    pred = images + mask * 3.0
    assert network.forward_loss(images, pred, mask).item() == pytest.approx(3.0)
    pred = torch.randn(2, 2, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(network.forward_loss(images, pred, mask), pred)
    hidden = mask.expand_as(pred)
    assert not gradient[~hidden].any()
    torch.testing.assert_close(gradient[hidden].abs(), torch.full((int(hidden.sum()),), 1 / int(hidden.sum())))


def test_a_fresh_mask_is_the_mean_picture() -> None:
    network = SimMim(VisionTransformer(CONV), 4)
    images = torch.randn(2, 2, 16, 16)
    mask = network.mask(torch.rand(2, 16))
    assert torch.equal(network.hide(images, mask), images * ~mask)


def test_float32_loss_under_autocast() -> None:
    network = make().eval()
    images, noise = torch.randn(4, 2, 16, 16), torch.rand(4, 16)
    with torch.autocast("cpu", torch.bfloat16):
        loss, pred, _ = network(images, noise)
    assert loss.dtype == torch.float32
    assert pred.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(network(images, noise)[0].item(), rel=0.05)


def test_it_learns_to_paint_what_is_around() -> None:
    """The light of a picture of one gray, of which a part is seen."""
    torch.manual_seed(0)
    shape = dataclasses.replace(CONV, in_chans=1, embed_dim=32)
    network = SimMim(VisionTransformer(shape), 4, 0.5)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss, _, _ = network(torch.randn(16, 1, 1, 1).expand(-1, -1, 16, 16))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.parametrize(
    ("mask_px", "ratio", "words"),
    [
        (5, 0.6, "squares of 5 px do not fill a picture of 24 px"),
        (6, 0.6, "squares of 6 px lie across patches of 8 px"),
        (8, 0.99, "masks 9 of 9 blocks"),
        (24, 0.6, "masks 1 of 1 blocks"),
    ],
)
def test_squares_that_do_not_fit_are_refused(mask_px: int, ratio: float, words: str) -> None:
    encoder = VisionTransformer(dataclasses.replace(CONV, img_size=24))
    with pytest.raises(ConfigError, match=words):
        SimMim(encoder, mask_px, ratio)


def test_mae_refuses_a_convolutional_stem_and_names_simmim() -> None:
    with pytest.raises(ConfigError, match="'simmim'"):
        MaskedAutoencoder(VisionTransformer(CONV))
