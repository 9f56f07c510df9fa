"""MoCo v3's network against a slow, obvious re-implementation and the published shapes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from fer_app.errors import ConfigError
from models.moco_v3 import MocoV3, init_moco_v3_weights, mlp_head
from models.vit import VisionTransformer, VitConfig, vit_config

SMALL = VitConfig(img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=1, num_heads=2)


def make(**options: bool) -> MocoV3:
    torch.manual_seed(0)
    return MocoV3(VisionTransformer(SMALL), mlp_dim=12, out_dim=6, **options)


def slow_batch_norm(x: Tensor, layer: nn.BatchNorm1d) -> Tensor:
    mean = x.sum(dim=0) / len(x)
    variance = (x - mean).square().sum(dim=0) / len(x)
    x = (x - mean) / (variance + 1e-5).sqrt()
    return x * layer.weight + layer.bias if layer.affine else x


def slow_head(x: Tensor, head: nn.Sequential) -> Tensor:
    for layer in head:
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.T
        else:
            x = slow_batch_norm(x, layer) if isinstance(layer, nn.BatchNorm1d) else x.clamp(min=0)
    return x


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(dim=1, keepdim=True).sqrt()


def test_queries_keys_and_gradients_equal_the_slow_ones() -> None:
    moco, views = make().train(), (torch.randn(5, 1, 8, 8), torch.randn(5, 1, 8, 8))
    with torch.no_grad():
        for parameter in (*moco.momentum_encoder.parameters(), *moco.momentum_projector.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    slow = {name: parameter.clone() for name, parameter in moco.named_parameters()}
    queries, keys = moco(*views, 0.9)
    for i, view in enumerate(views):
        token = moco.encoder.encode(moco.encoder.embed(view))[:, 0]
        expected = unit(slow_head(slow_head(token, moco.projector), moco.predictor))
        torch.testing.assert_close(queries[i], expected, rtol=1e-4, atol=1e-5)
        learnt = [p for p in moco.parameters() if p.requires_grad]
        ours = torch.autograd.grad(queries[i][:, 0].sum(), learnt, retain_graph=True)
        theirs = torch.autograd.grad(expected[:, 0].sum(), learnt)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        # Keys are of the slow copy after it has moved.
        moved = VisionTransformer(SMALL)
        moved.load_state_dict(
            {
                name: 0.9 * slow[f"momentum_encoder.{name}"] + 0.1 * slow[f"encoder.{name}"]
                for name in moved.state_dict()
            }
        )
        projector = mlp_head(3, 8, 12, 6, last_norm=True)
        names = [name for name, _ in projector.named_parameters()]
        mixed = {name: 0.9 * slow[f"momentum_projector.{name}"] + 0.1 * slow[f"projector.{name}"] for name in names}
        projector.load_state_dict(mixed, strict=False)
        expected = unit(slow_head(moved.forward_features(view)[:, 0], projector))
        torch.testing.assert_close(keys[i], expected, rtol=1e-4, atol=1e-5)
        assert not keys[i].requires_grad


def test_the_slow_copy_starts_equal_moves_by_parameters_alone_and_never_learns() -> None:
    moco = make().train()
    for name, parameter in moco.encoder.named_parameters():
        assert torch.equal(moco.momentum_encoder.get_parameter(name), parameter)
    views = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)
    before = {name: tensor.clone() for name, tensor in moco.momentum_projector.state_dict().items()}
    moco(*views, None)
    for name, parameter in moco.momentum_projector.named_parameters():
        assert torch.equal(parameter, before[name])
    own, base = (head.get_buffer("1.running_mean") for head in (moco.momentum_projector, moco.projector))
    assert not torch.equal(own, before["1.running_mean"]), "its norms see its own features"
    torch.testing.assert_close(own, base)  # equal networks so far, and no average of averages
    assert not any(
        p.requires_grad for p in (*moco.momentum_encoder.parameters(), *moco.momentum_projector.parameters())
    )


def test_patch_embedding_and_positions_are_frozen() -> None:
    moco = make()
    queries, _ = moco(torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8), 0.99)
    queries[0][:, 0].sum().backward()
    without = {name for name, p in moco.named_parameters() if p.grad is None and not name.startswith("momentum_")}
    assert without == {"encoder.pos_embed", "encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias"}
    assert make(freeze_patch_embed=False).encoder.get_parameter("patch_embed.proj.weight").requires_grad
    conv = dataclasses.replace(SMALL, stem="conv", stem_channels=(4, 4, 4))
    assert all(p.requires_grad for p in MocoV3(VisionTransformer(conv), 12, 6).encoder.patch_embed.parameters())


def test_published_heads_of_the_base_model() -> None:
    """moco-v3's `_build_projector_and_predictor_mlps` of ViTs: 3 and 2 layers, no biases, no scale at the end."""
    with torch.device("meta"):
        moco = MocoV3(VisionTransformer(vit_config("base")))
    shapes = [tuple(p.shape) for p in moco.projector.parameters()]
    assert shapes == [(4096, 768), (4096,), (4096,), (4096, 4096), (4096,), (4096,), (256, 4096)]
    assert [tuple(p.shape) for p in moco.predictor.parameters()] == [(4096, 256), (4096,), (4096,), (256, 4096)]
    for head in (moco.projector, moco.predictor):
        assert isinstance(head[-1], nn.BatchNorm1d)
        assert not head[-1].affine


def test_published_initialisation() -> None:
    torch.manual_seed(0)
    encoder = VisionTransformer(vit_config("tiny", depth=1))
    init_moco_v3_weights(encoder)
    bound = math.sqrt(6 / (192 + 192))  # one of the three layers
    weight = encoder.blocks[0].get_parameter("attn.qkv.weight")
    assert bound * 0.99 < weight.abs().max() <= bound
    assert encoder.cls_token is not None
    assert 5e-7 < encoder.cls_token.std() < 2e-6
    patch = encoder.get_parameter("patch_embed.proj.weight")
    bound = math.sqrt(6 / (3 * 16 * 16 + 192))
    assert bound * 0.99 < patch.abs().max() <= bound


def test_codes_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        queries, keys = make()(torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8), 0.99)
    assert {code.dtype for code in (*queries, *keys)} == {torch.float32}
    torch.testing.assert_close(queries[0].norm(dim=1), torch.ones(3))


def test_an_encoder_without_a_class_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="class_token"):
        MocoV3(VisionTransformer(dataclasses.replace(SMALL, class_token=False)))
