"""The wide residual network: its shape, its blocks against a plain version, pooling of any size, the embedding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_app.errors import ConfigError
from models.wide_resnet import PreActivationBlock, WideResNet


def small(num_classes: int = 4, **changes: int) -> WideResNet:
    torch.manual_seed(0)
    return WideResNet(num_classes, **{"depth": 10, "widen_factor": 1, "in_chans": 1, **changes})


def with_statistics(model: WideResNet) -> WideResNet:
    """Running statistics and scales as training leaves them, so that forgetting one shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                nn.init.uniform_(tensor, low, high)
    return model.eval()


def slow_forward(model: WideResNet, x: Tensor) -> Tensor:
    """MixMatch's network from its weights, step by step."""
    weights = model.state_dict()

    def norm_act(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        y = (x - mean) / (var + 1e-5).sqrt() * scale + shift
        return torch.where(y > 0, y, 0.1 * y)

    x = F.conv2d(x, weights["conv.weight"], padding=1)
    for i, stride in enumerate((1, 2, 2)):
        name = f"groups.{i}"
        activated = norm_act(x, f"{name}.bn1")
        y = F.conv2d(activated, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
        y = F.conv2d(norm_act(y, f"{name}.bn2"), weights[f"{name}.conv2.weight"], padding=1)
        start = activated if i == 0 else x
        kernel = weights.get(f"{name}.shortcut.weight")
        x = y + (start if kernel is None else F.conv2d(start, kernel, stride=stride))
    pooled = norm_act(x, "bn").flatten(2).mean(dim=2)
    return pooled @ weights["head.weight"].T + weights["head.bias"]


@pytest.mark.parametrize("widen_factor", [1, 2])  # with 1 the first block keeps its width
def test_the_forward_pass_is_the_plain_one(widen_factor: int) -> None:
    model = with_statistics(small(widen_factor=widen_factor))
    images = torch.randn(3, 1, 12, 12)
    torch.testing.assert_close(model(images), slow_forward(model, images), rtol=1e-4, atol=1e-5)


def test_the_published_network_has_as_many_parameters_as_theirs() -> None:
    model = WideResNet(10)  # WideResNet-28-2 on CIFAR-10
    assert sum(p.numel() for p in model.parameters()) == 1_467_610
    assert model.embed_dim == 128
    blocks = [module for module in model.modules() if isinstance(module, PreActivationBlock)]
    assert len(blocks) == 12
    assert [(i, b.conv1.stride[0]) for i, b in enumerate(blocks) if b.conv1.stride != (1, 1)] == [(4, 2), (8, 2)]
    assert [i for i, b in enumerate(blocks) if b.activate_shortcut] == [0]
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.001}


def test_kernels_start_with_the_variance_of_their_outputs() -> None:
    model = WideResNet(10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            side = module.kernel_size[0]
            expected = math.sqrt(2 / (side * side * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert not model.head.bias.any()


@pytest.mark.parametrize("size", [12, 32, 48, 49])
def test_pictures_of_any_size_go_in(size: int) -> None:
    model = small(in_chans=3).eval()
    images = torch.randn(2, 3, size, size)
    assert model.forward_features(images).shape == (2, 64)
    assert model(images).shape == (2, 4)


def test_a_batch_is_as_many_batches_of_one_in_evaluation() -> None:
    model = with_statistics(small())
    images = torch.randn(5, 1, 16, 16)
    one_by_one = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), one_by_one, rtol=1e-4, atol=1e-5)


def test_the_layout_does_not_matter() -> None:
    model = with_statistics(small())
    images = torch.randn(2, 1, 16, 16)
    expected = model(images)
    torch.testing.assert_close(model.to(memory_format=torch.channels_last)(images), expected, rtol=1e-4, atol=1e-5)


def test_the_embedding_is_what_the_head_sees_at_length_one() -> None:
    model = with_statistics(small())
    images = torch.randn(4, 1, 16, 16)
    logits, z = model.forward_train(images)
    features = model.forward_features(images)
    torch.testing.assert_close(logits, model.head(features))
    torch.testing.assert_close(z, features / features.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(("size", "side"), [(16, 4), (18, 5)])
def test_evidence_of_the_positions_averages_to_the_logits(size: int, side: int) -> None:
    model = with_statistics(small(widen_factor=2))
    nn.init.normal_(model.head.bias)
    images = torch.randn(3, 1, size, size)
    logits, features, evidence = model.forward_outputs(images)
    assert model.output_names == ("logits", "features", "evidence")
    torch.testing.assert_close(logits, model(images))
    torch.testing.assert_close(features, model.forward_features(images))
    assert evidence.shape == (3, 4, side, side)
    torch.testing.assert_close(evidence.mean(dim=(2, 3)), logits, atol=1e-5, rtol=1e-4)
    assert evidence.std(dim=(2, 3)).min() > 0.01


def test_float32_comes_out_and_gradients_reach_everything_under_bfloat16() -> None:
    model = small(depth=16).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits, z = model.forward_train(torch.randn(4, 1, 16, 16))
    assert (logits.dtype, z.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(4))
    (logits.square().mean() + z[:, 0].mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("changes", [{"depth": 27}, {"depth": 4}, {"widen_factor": 0}, {"in_chans": 0}])
def test_what_is_no_network_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        small(**changes)
