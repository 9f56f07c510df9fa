"""The encoder: timm's names and numbers, MAE's initialisation, tokens in any number and order."""

from __future__ import annotations

import json
import math

import pytest
import timm
import torch

from fer_app.errors import ConfigError, InputError
from models.vit import VIT_SIZES, VisionTransformer, VitConfig, vit_config

SMALL = VitConfig(img_size=16, patch_size=4, in_chans=1, embed_dim=16, depth=2, num_heads=4)
HYBRID = VitConfig(
    img_size=16, patch_size=4, in_chans=1, embed_dim=16, depth=2, num_heads=4, stem="conv", stem_channels=(4, 6, 8)
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_names_and_outputs_are_timms():
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, global_pool="token", depth=3).eval()
    ours = VisionTransformer(vit_config("tiny", depth=3)).eval()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs.forward_features(images), rtol=1e-4, atol=1e-5)


def test_base_has_the_published_tensors():
    with torch.device("meta"):
        state = VisionTransformer(vit_config("base")).state_dict()
    assert sum(v.numel() for v in state.values()) == 85_798_656
    assert len(state) == 150


@pytest.mark.parametrize("config", [SMALL, HYBRID], ids=["patch", "conv"])
def test_initialisation_is_maes(config):
    vit = VisionTransformer(config)
    for name, parameter in vit.blocks.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight"))))
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert 0.9 * bound < parameter.abs().max() <= bound
    assert vit.pos_embed.requires_grad
    assert not vit.pos_embed[0, 0].any()
    assert vit.pos_embed[0, 1:].any(dim=1).all()
    assert 0 < vit.cls_token.abs().max() < 0.1
    assert not vit.patch_embed.proj.bias.any()
    fan = vit.patch_embed.proj.weight.flatten(1).shape
    assert vit.patch_embed.proj.weight.abs().max() <= math.sqrt(6 / sum(fan))


def test_layer_norms_have_maes_eps():
    norms = [m for m in VisionTransformer(SMALL).modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == 5
    assert {m.eps for m in norms} == {1e-6}


@pytest.mark.parametrize("config", [SMALL, HYBRID], ids=["patch", "conv"])
def test_embed_is_the_stem_plus_the_positions_of_the_patches(config):
    vit = VisionTransformer(config).eval()
    images = torch.randn(3, 1, 16, 16)
    assert torch.equal(vit.embed(images), vit.patch_embed(images) + vit.pos_embed[:, 1:])


def test_encode_prepends_the_class_token_with_its_position():
    vit = VisionTransformer(VitConfig(**{**SMALL.to_dict(), "stem_channels": (), "depth": 0}))
    torch.nn.init.normal_(vit.pos_embed)
    tokens = torch.randn(3, 7, 16)
    encoded = vit.encode(tokens, norm=False)
    assert torch.equal(encoded[:, 1:], tokens)
    assert torch.equal(encoded[:, 0], (vit.cls_token[0, 0] + vit.pos_embed[0, 0]).expand(3, -1))
    assert torch.equal(vit.encode(tokens), vit.norm(encoded))


def test_encode_takes_any_tokens_in_any_order():
    vit = VisionTransformer(SMALL).eval()
    tokens = vit.embed(torch.randn(2, 1, 16, 16))
    order = torch.randperm(16)[:5]
    few = vit.encode(tokens[:, order])
    ordered = vit.encode(tokens[:, order.sort().values])
    torch.testing.assert_close(few[:, 1:], ordered[:, 1:][:, order.argsort().argsort()], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(few[:, 0], ordered[:, 0], rtol=1e-4, atol=1e-5)


def test_without_a_class_token():
    config = VitConfig(**{**SMALL.to_dict(), "stem_channels": (), "class_token": False})
    vit = VisionTransformer(config)
    assert "cls_token" not in vit.state_dict()
    assert vit.pos_embed.shape == (1, 16, 16)
    assert vit(torch.randn(2, 1, 16, 16)).shape == (2, 16, 16)


@pytest.mark.parametrize("config", [SMALL, HYBRID], ids=["patch", "conv"])
def test_a_batch_is_as_many_batches_of_one(config):
    vit = VisionTransformer(config).eval()
    images = torch.randn(4, 1, 16, 16)
    torch.testing.assert_close(vit(images), torch.cat([vit(i[None]) for i in images]), rtol=1e-4, atol=1e-5)
    assert vit(images[:0]).shape == (0, 17, 16)


def test_drop_path_rises_linearly_and_rests_in_evaluation():
    vit = VisionTransformer(vit_config("tiny", img_size=16, patch_size=8, depth=5, drop_path_rate=0.4))
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    images = torch.randn(4, 3, 16, 16)
    assert not torch.equal(vit.train()(images), vit(images))
    assert torch.equal(vit.eval()(images), vit(images))


@pytest.mark.parametrize("shape", [(1, 1, 16, 12), (1, 3, 16, 16), (1, 16, 16), (1, 1, 8, 8)])
def test_refuses_pictures_of_another_shape(shape):
    for config in (SMALL, HYBRID):
        with pytest.raises(InputError, match=r"\(1, 16, 16\)"):
            VisionTransformer(config)(torch.zeros(shape))


@pytest.mark.parametrize("size", VIT_SIZES)
def test_sizes(size):
    config = vit_config(size, img_size=48, patch_size=8)
    assert (config.embed_dim, config.depth, config.num_heads) == VIT_SIZES[size]
    assert config.num_patches == 36
    assert config.embed_dim // config.num_heads == 64
    assert vit_config(size, depth=2).depth == 2


def test_unknown_size_names_the_known_ones():
    with pytest.raises(ConfigError, match="tiny, small, base, large"):
        vit_config("giant")


@pytest.mark.parametrize("config", [SMALL, HYBRID], ids=["patch", "conv"])
def test_config_travels_as_json(config):
    assert VitConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_config_refuses_unknown_fields():
    with pytest.raises(ConfigError, match="widht"):
        VitConfig.from_dict({**SMALL.to_dict(), "widht": 3})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_size": 18}, "multiple of 4"),
        ({"num_heads": 3}, "3 heads do not divide"),
        ({"embed_dim": 6, "num_heads": 2}, "multiple of 4"),
        ({"depth": -1}, "positive"),
        ({"patch_size": 0}, "positive"),
        ({"drop_path_rate": 1.0}, r"\[0, 1\)"),
        ({"stem": "mlp"}, "'mlp'"),
        ({"stem_channels": (4, 8)}, "stem is 'patch'"),
        ({"stem": "conv"}, "stride of None"),
        ({"stem": "conv", "stem_channels": (4, 8)}, "stride of 2, patch_size is 4"),
    ],
)
def test_config_refuses_what_does_not_fit(changes, message):
    fields = {**SMALL.to_dict(), "stem_channels": (), **changes}
    with pytest.raises(ConfigError, match=message):
        VitConfig(**fields)


def test_checkpointed_blocks_keep_less_and_give_the_same_gradients():
    tokens = torch.randn(2, 5, 16)
    kept, gradients = [], []
    model = VisionTransformer(SMALL).train()
    for again in (False, True):
        model.blocks.grad_checkpointing = again
        model.zero_grad()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.nbytes), t)[1], lambda t: t
        ):
            outputs = model.blocks(tokens)
        outputs.square().sum().backward()
        kept.append(sum(sizes))
        gradients.append({name: p.grad.clone() for name, p in model.blocks.named_parameters()})
    assert kept[1] < 0.2 * kept[0]
    assert all(torch.equal(gradients[0][name], gradient) for name, gradient in gradients[1].items())
