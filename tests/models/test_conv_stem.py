"""The residual stem: strides, token order, layout, and batch normalisation in training, evaluation and averaging."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from models.conv_stem import ConvStem, ResidualBlock


def make_stem(in_chans: int = 1, blocks: int = 1) -> ConvStem:
    torch.manual_seed(0)
    return ConvStem(in_chans, (4, 8, 8, 12), 16, blocks)


@pytest.mark.parametrize(
    ("channels", "size", "tokens"), [((8,), 5, 25), ((8, 8), 12, 36), ((4, 6, 8, 12), 48, 36), ((4, 4, 4, 4, 4), 32, 4)]
)
def test_stride_is_two_to_the_number_of_stages(channels, size, tokens):
    stem = ConvStem(3, channels, 16)
    assert stem.stride == 2 ** (len(channels) - 1)
    assert stem(torch.randn(2, 3, size, size)).shape == (2, tokens, 16)


def test_tokens_are_numbered_row_by_row():
    stem = make_stem().eval()
    images = torch.randn(1, 1, 32, 48, requires_grad=True)
    row, column = 1, 4
    stem(images)[0, row * 6 + column].sum().backward()
    weight = images.grad[0, 0].abs()
    ys, xs = torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij")
    center = ((weight * ys).sum() / weight.sum(), (weight * xs).sum() / weight.sum())
    assert abs(center[0] - (8 * row + 3.5)) < 4
    assert abs(center[1] - (8 * column + 3.5)) < 4


@pytest.mark.parametrize(("width", "stride"), [(6, 1), (10, 1), (6, 2), (10, 2)])
def test_a_fresh_block_is_its_shortcut(width, stride):
    stem = ConvStem(1, (6, 10), 8, 2)
    block = ResidualBlock(6, width, stride)
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 6, 8, 8)
    torch.testing.assert_close(block(x), block.shortcut(x).relu())
    blocks = [module for module in stem.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 2
    assert all(not module.bn2.weight.any() for module in blocks)


def test_a_strided_shortcut_sees_every_pixel():
    block = ResidualBlock(2, 4, stride=2).eval()
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    block.shortcut(x).square().sum().backward()
    assert (x.grad != 0).all()


def test_channels_last_weights_survive_copies_and_loading():
    stem = make_stem()
    fresh = make_stem()
    fresh.load_state_dict(stem.state_dict())
    for module in (stem, copy.deepcopy(stem), fresh):
        kernels = [m.weight for m in module.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert kernels
        assert all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels)


def test_the_layout_of_the_pictures_does_not_matter():
    stem = make_stem(in_chans=3).eval()
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(stem(images.contiguous(memory_format=torch.channels_last)), stem(images))


def test_a_batch_is_as_many_batches_of_one_in_evaluation():
    stem = make_stem(blocks=2).eval()
    images = torch.randn(5, 1, 16, 16)
    one_by_one = torch.cat([stem(image[None]) for image in images])
    torch.testing.assert_close(stem(images), one_by_one, rtol=1e-4, atol=1e-5)


def test_evaluation_leaves_the_running_statistics_alone():
    stem = make_stem()
    before = copy.deepcopy(stem.state_dict())
    stem.eval()(torch.randn(4, 1, 16, 16))
    assert all(torch.equal(before[k], v) for k, v in stem.state_dict().items())
    stem.train()(torch.randn(4, 1, 16, 16) + 3)
    assert not torch.equal(before["bn.running_mean"], stem.state_dict()["bn.running_mean"])


def test_the_average_follows_weights_and_statistics():
    stem = make_stem()
    average = ModelEmaV3(stem, decay=0.5)
    with torch.no_grad():
        for _ in range(40):
            stem.train()(torch.randn(8, 1, 16, 16) * 2 + 1)
            average.update(stem)
    images = torch.randn(2, 1, 16, 16) * 2 + 1
    torch.testing.assert_close(average.module.eval()(images), stem.eval()(images), rtol=0.1, atol=0.1)
    assert average.module.bn.running_mean.abs().sum() > 0


def test_trains_under_bfloat16_autocast():
    stem = make_stem(blocks=2)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = stem(torch.randn(4, 1, 16, 16))
    assert tokens.dtype == torch.bfloat16
    tokens.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in stem.parameters())


@pytest.mark.parametrize(("channels", "blocks"), [((), 1), ((4, 8), 0)])
def test_refuses_an_empty_stem(channels, blocks):
    with pytest.raises(ValueError, match="channels and blocks"):
        ConvStem(1, channels, 8, blocks)
