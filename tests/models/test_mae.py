"""Masked autoencoding against a slow, obvious re-implementation."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fer_app.errors import ConfigError
from models.mae import MaskedAutoencoder, patchify, random_masking, unpatchify
from models.vit import VisionTransformer, VitConfig, vit_config

SMALL = VitConfig(img_size=12, patch_size=4, in_chans=2, embed_dim=8, depth=2, num_heads=2)


def make_mae(config: VitConfig = SMALL, **kwargs) -> MaskedAutoencoder:
    torch.manual_seed(0)
    mae = MaskedAutoencoder(VisionTransformer(config), 12, 2, 3, **{"mask_ratio": 0.6, **kwargs})
    for parameter in mae.parameters():  # so that biases and norms count
        torch.nn.init.normal_(parameter, std=0.3)
    return mae


# --- masking -------------------------------------------------------------------------------------------------------


def slow_masking(tokens: Tensor, ratio: float, noise: Tensor) -> tuple[Tensor, Tensor]:
    kept, masks = [], []
    for sample, draws in zip(tokens, noise.tolist(), strict=True):
        order = sorted(range(len(draws)), key=draws.__getitem__)
        keep = order[: int(len(draws) * (1 - ratio))]
        kept.append(torch.stack([sample[i] for i in keep]))
        masks.append(torch.tensor([0.0 if i in keep else 1.0 for i in range(len(draws))]))
    return torch.stack(kept), torch.stack(masks)


@given(st.integers(1, 4), st.integers(2, 40), st.floats(0.05, 0.95), st.integers(0, 2**31))
@settings(max_examples=40)
def test_masking_equals_the_slow_one(batch, num_tokens, ratio, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, num_tokens, 3, generator=generator, requires_grad=True)
    noise = torch.rand(batch, num_tokens, generator=generator)
    if not 1 <= int(num_tokens * (1 - ratio)) < num_tokens:
        with pytest.raises(ConfigError):
            random_masking(tokens, ratio, noise=noise)
        return
    kept, mask, ids_restore = random_masking(tokens, ratio, noise=noise)
    slow_kept, slow_mask = slow_masking(tokens, ratio, noise)
    assert torch.equal(kept, slow_kept)
    assert torch.equal(mask, slow_mask)
    removed = torch.full((batch, num_tokens - kept.shape[1], 3), torch.nan)
    restored = torch.cat([kept, removed], dim=1).gather(1, ids_restore[..., None].expand(-1, -1, 3))
    assert torch.equal(restored.isnan().any(dim=2), mask.bool())
    assert torch.equal(restored[~mask.bool()], tokens[~mask.bool()])
    (gradient,) = torch.autograd.grad(kept.sum(), tokens)
    assert torch.equal(gradient, (1 - mask)[..., None].expand_as(gradient))


def test_published_counts():
    kept, mask, _ = random_masking(torch.zeros(3, 196, 4), 0.75)
    assert kept.shape == (3, 49, 4)
    assert mask.sum(dim=1).tolist() == [147.0] * 3
    assert random_masking(torch.zeros(1, 196, 4), 0.4)[0].shape[1] == 117


def test_masking_is_a_function_of_its_generator():
    tokens = torch.randn(2, 30, 4)
    first = random_masking(tokens, 0.5, generator=torch.Generator().manual_seed(1))
    again = random_masking(tokens, 0.5, generator=torch.Generator().manual_seed(1))
    other = random_masking(tokens, 0.5, generator=torch.Generator().manual_seed(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])
    assert not torch.equal(first[1][0], first[1][1]), "samples are masked independently"


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.99, -0.1])
def test_a_ratio_that_keeps_or_removes_nothing_is_refused(ratio):
    with pytest.raises(ConfigError, match="both parts need one"):
        random_masking(torch.zeros(1, 16, 4), ratio)


# --- patches -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=30)
def test_unpatchify_undoes_patchify(batch, channels, patch_size, height, width):
    images = torch.randn(batch, channels, height * patch_size, width * patch_size)
    patches = patchify(images, patch_size)
    assert patches.shape == (batch, height * width, patch_size**2 * channels)
    assert torch.equal(unpatchify(patches, patch_size, (height, width)), images)


def test_patch_order_is_row_column_channel():
    images = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    patches = patchify(images, 2)
    for b in range(2):
        for row in range(2):
            for column in range(3):
                flat = [
                    images[b, c, 2 * row + i, 2 * column + j].item()
                    for i in range(2)
                    for j in range(2)
                    for c in range(3)
                ]
                assert patches[b, row * 3 + column].tolist() == flat


# --- the whole model -----------------------------------------------------------------------------------------------


def slow_norm(x: Tensor, p: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return (
        centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]
    )


def slow_linear(x: Tensor, p: dict[str, Tensor], name: str) -> Tensor:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def slow_block(x: Tensor, p: dict[str, Tensor], name: str, heads: int) -> Tensor:
    """One pre-norm block of one sample, (n, D), head by head."""
    dim = x.shape[1]
    width = dim // heads
    qkv = slow_linear(slow_norm(x, p, f"{name}.norm1"), p, f"{name}.attn.qkv")
    mixed = []
    for head in range(heads):
        q, k, v = (qkv[:, part * dim + head * width : part * dim + (head + 1) * width] for part in range(3))
        mixed.append((q @ k.T / math.sqrt(width)).softmax(dim=1) @ v)
    x = x + slow_linear(torch.cat(mixed, dim=1), p, f"{name}.attn.proj")
    hidden = slow_linear(slow_norm(x, p, f"{name}.norm2"), p, f"{name}.mlp.fc1")
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return x + slow_linear(hidden, p, f"{name}.mlp.fc2")


def slow_mae(mae: MaskedAutoencoder, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """MAE sample by sample and patch by patch; returns (loss, pred)."""
    p = {**dict(mae.named_parameters()), **dict(mae.named_buffers())}
    size = mae.encoder.config.patch_size
    side = mae.encoder.config.img_size // size
    prefix = mae.encoder.num_prefix_tokens
    losses, preds = [], []
    for image, draws in zip(images, noise.tolist(), strict=True):
        patches = [
            image[:, size * r : size * (r + 1), size * c : size * (c + 1)] for r in range(side) for c in range(side)
        ]
        projection = p["encoder.patch_embed.proj.weight"]
        order = sorted(range(len(patches)), key=draws.__getitem__)
        keep = order[: int(len(patches) * (1 - mae.mask_ratio))]
        x = [
            (projection * patches[i]).sum(dim=(1, 2, 3))
            + p["encoder.patch_embed.proj.bias"]
            + p["encoder.pos_embed"][0, prefix + i]
            for i in keep
        ]
        if prefix:
            x.insert(0, p["encoder.cls_token"][0, 0] + p["encoder.pos_embed"][0, 0])
        x = torch.stack(x)
        for i in range(mae.encoder.config.depth):
            x = slow_block(x, p, f"encoder.blocks.{i}", mae.encoder.config.num_heads)
        x = slow_linear(slow_norm(x, p, "encoder.norm"), p, "decoder_embed")
        painted = [x[prefix + keep.index(i)] if i in keep else p["mask_token"][0, 0] for i in range(len(patches))]
        y = torch.stack([*x[:prefix], *painted]) + p["decoder_pos_embed"][0]
        for i in range(len(mae.decoder_blocks)):
            y = slow_block(y, p, f"decoder_blocks.{i}", 3)
        pred = slow_linear(slow_norm(y, p, "decoder_norm"), p, "decoder_pred")[prefix:]
        preds.append(pred)
        for i in set(range(len(patches))) - set(keep):
            target = patches[i].permute(1, 2, 0).flatten()
            if mae.norm_pix_loss:
                mean = target.sum() / len(target)
                variance = (target - mean).square().sum() / (len(target) - 1)
                target = (target - mean) / (variance + 1e-6).sqrt()
            losses.append((pred[i] - target).square().sum() / len(target))
    return torch.stack(losses).sum() / len(losses), torch.stack(preds)


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("class_token", [True, False])
def test_loss_prediction_and_gradients_equal_the_slow_ones(norm_pix, class_token):
    mae = make_mae(dataclasses.replace(SMALL, class_token=class_token), norm_pix_loss=norm_pix)
    images, noise = torch.randn(3, 2, 12, 12), torch.rand(3, 9)
    loss, pred, mask = mae(images, noise)
    slow_loss, slow_pred = slow_mae(mae, images, noise)
    torch.testing.assert_close(loss, slow_loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pred, slow_pred, rtol=1e-4, atol=1e-4)
    assert mask.sum(dim=1).tolist() == [6.0] * 3  # 9 patches, int(9 * 0.4) = 3 kept
    learnt = {name: p for name, p in mae.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(learnt.values()))
    slow_gradients = torch.autograd.grad(slow_loss, list(learnt.values()))
    for name, fast, slow in zip(learnt, gradients, slow_gradients, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_pixels_of_removed_patches_do_not_reach_the_prediction():
    mae = make_mae().eval()
    noise = torch.rand(1, 9)
    images = torch.randn(1, 2, 12, 12)
    loss, pred, mask = mae(images, noise)
    changed = patchify(images, 4) + mask[..., None] * 10 * torch.randn(1, 9, 32)
    loss_changed, pred_changed, _ = mae(unpatchify(changed, 4, (3, 3)), noise)
    assert torch.equal(pred, pred_changed)
    assert loss != loss_changed
    kept = patchify(images, 4) + (1 - mask[..., None])
    assert not torch.allclose(mae(unpatchify(kept, 4, (3, 3)), noise)[1], pred)


def test_loss_counts_removed_patches_alone():
    mae = make_mae()
    images, noise = torch.randn(2, 2, 12, 12), torch.rand(2, 9)
    _, pred, mask = mae(images, noise)
    (gradient,) = torch.autograd.grad(mae.forward_loss(images, pred, mask), pred)
    assert torch.equal(gradient.any(dim=2), mask.bool())


def test_a_perfect_painter_has_no_loss_and_variance_is_unbiased():
    mae = make_mae()
    images = torch.randn(2, 2, 12, 12)
    patches = patchify(images, 4)
    mean, std = patches.mean(dim=-1, keepdim=True), patches.std(dim=-1, keepdim=True, correction=1)
    mask = torch.ones(2, 9)
    assert mae.forward_loss(images, (patches - mean) / std, mask) < 1e-10
    # A painter of zeros pays the targets' mean square: (n - 1) / n with the unbiased variance, n = 32 values.
    assert mae.forward_loss(images, torch.zeros_like(patches), mask).item() == pytest.approx(31 / 32, rel=1e-4)


def test_flat_patches_stay_finite():
    mae = make_mae()
    loss, _, _ = mae(torch.ones(2, 2, 12, 12))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in mae.parameters() if p.requires_grad)


def test_positions_are_fixed_and_everything_else_learns():
    mae = make_mae()
    mae(torch.randn(2, 2, 12, 12))[0].backward()
    assert [name for name, p in mae.named_parameters() if p.grad is None] == ["encoder.pos_embed"]
    assert "decoder_pos_embed" in mae.state_dict()


def test_float32_loss_under_autocast():
    mae = make_mae()
    images, noise = torch.randn(4, 2, 12, 12), torch.rand(4, 9)
    with torch.autocast("cpu", torch.bfloat16):
        loss, pred, _ = mae(images, noise)
    assert loss.dtype == torch.float32
    assert pred.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(mae(images, noise)[0].item(), rel=0.05)


def test_the_published_checkpoint_loads_by_key():
    with torch.device("meta"):
        mae = MaskedAutoencoder(VisionTransformer(vit_config("base")))
    state = mae.state_dict()
    decoder = {k for k in state if k.startswith("decoder_") or k == "mask_token"}
    assert len(decoder) == 104
    assert len(state) == 254
    assert sum(v.numel() for v in state.values()) == 111_907_840
    assert {k for k in state if k not in decoder} == {f"encoder.{k}" for k in mae.encoder.state_dict()}
    assert state["decoder_pred.weight"].shape == (768, 512)


def test_a_convolutional_stem_is_refused_with_the_reason():
    config = dataclasses.replace(SMALL, stem="conv", stem_channels=(4, 4, 4))
    with pytest.raises(ValueError, match="overlap"):
        MaskedAutoencoder(VisionTransformer(config))


def test_decoder_sizes_must_fit():
    with pytest.raises(ConfigError, match="decoder_num_heads 5"):
        MaskedAutoencoder(VisionTransformer(SMALL), 12, 1, 5)
