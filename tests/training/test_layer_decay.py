"""Layer-wise learning-rate decay against MAE's own rule, parameter by parameter."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fer_app.errors import ConfigError
from models.mae import MaskedAutoencoder
from models.mimic import MimicClassifier
from models.vit import VisionTransformer, VitConfig
from training.layer_decay import param_groups

PLAIN = VitConfig(img_size=16, patch_size=4, in_chans=1, embed_dim=8, depth=12, num_heads=2)
HYBRID = dataclasses.replace(PLAIN, depth=3, stem="conv", stem_channels=(4, 4, 6), stem_blocks=2)


def maes_layer(name: str, depth: int) -> int:
    """MAE's `get_layer_id_for_vit`, on the encoder's names."""
    name = name.removeprefix("encoder.")
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        return 0
    if name.startswith("blocks"):
        return int(name.split(".")[1]) + 1
    return depth + 1


@pytest.mark.parametrize("config", [PLAIN, HYBRID], ids=["patch", "conv"])
@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("weight_decay", [0.05, 0.0])
def test_every_parameter_has_maes_scale_and_weight_decay(config, pool, weight_decay):
    model = MimicClassifier(VisionTransformer(config), 8, global_pool=pool)
    groups = param_groups(model, lr=0.01, weight_decay=weight_decay, layer_decay=0.65)
    seen = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(seen) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        group = seen[id(parameter)]
        layer = maes_layer(name, config.depth)
        scale = 0.65 ** (config.depth + 1 - layer)
        exempt = parameter.ndim <= 1 or name in ("encoder.cls_token", "encoder.pos_embed")
        assert group["lr_scale"] == pytest.approx(scale), name
        assert group["lr"] == pytest.approx(0.01 * scale), name
        assert group["weight_decay"] == (0.0 if exempt else weight_decay), name
        assert group["name"] == f"layer_{layer}_{'no_decay' if exempt else 'decay'}"
    assert len({group["name"] for group in groups}) == len(groups)


def test_the_published_table_for_twelve_blocks():
    model = MimicClassifier(VisionTransformer(PLAIN), 8)
    groups = {g["name"]: g for g in param_groups(model, lr=1.0, weight_decay=0.05, layer_decay=0.65)}
    assert groups["layer_0_decay"]["lr_scale"] == pytest.approx(0.65**13)
    assert groups["layer_1_decay"]["lr_scale"] == pytest.approx(0.65**12)
    assert groups["layer_12_decay"]["lr_scale"] == pytest.approx(0.65)
    assert groups["layer_13_decay"]["lr_scale"] == 1.0


def test_torchs_schedulers_keep_the_ratios():
    model = MimicClassifier(VisionTransformer(HYBRID), 8)
    optimizer = torch.optim.AdamW(param_groups(model, lr=0.1, weight_decay=0.05, layer_decay=0.5), lr=123.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    optimizer.step()
    schedule.step()
    assert all(g["lr"] == pytest.approx(0.05 * g["lr_scale"]) for g in optimizer.param_groups)


def test_frozen_parameters_are_left_out_and_shift_nothing():
    model = MimicClassifier(VisionTransformer(HYBRID), 8)
    model.encoder.patch_embed.requires_grad_(False)
    model.encoder.blocks[0].requires_grad_(False)
    groups = param_groups(model, lr=1.0, weight_decay=0.05, layer_decay=0.5)
    names = {g["name"]: g["lr_scale"] for g in groups}
    assert names["layer_2_decay"] == 0.25
    assert names["layer_4_decay"] == 1.0
    assert "layer_1_decay" not in names
    assert all(p.requires_grad for g in groups for p in g["params"])


def test_without_decay_there_is_one_rate():
    model = MimicClassifier(VisionTransformer(HYBRID), 8)
    decay, no_decay = sorted(param_groups(model, lr=0.1, weight_decay=0.05, layer_decay=1.0), key=lambda g: g["name"])
    assert (decay["name"], no_decay["name"]) == ("decay", "no_decay")
    assert decay["lr"] == no_decay["lr"] == 0.1
    assert decay["lr_scale"] == no_decay["lr_scale"] == 1.0
    exempt = {id(p) for p in no_decay["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in exempt) == (parameter.ndim <= 1 or name.endswith(("cls_token", "pos_embed"))), name


def test_pretraining_decays_the_class_and_mask_tokens():
    mae = MaskedAutoencoder(VisionTransformer(PLAIN), 8, 1, 2)
    groups = {g["name"]: g for g in param_groups(mae, lr=0.1, weight_decay=0.05, layer_decay=1.0)}
    decaying = {id(p) for p in groups["decay"]["params"]}
    assert id(mae.mask_token) in decaying
    assert id(mae.encoder.cls_token) in decaying
    assert id(mae.encoder.pos_embed) not in {id(p) for g in groups.values() for p in g["params"]}
    assert all(p.ndim <= 1 for p in groups["no_decay"]["params"])


def test_a_model_without_layers_is_refused():
    mae = MaskedAutoencoder(VisionTransformer(PLAIN), 8, 1, 2)
    with pytest.raises(TypeError, match="MaskedAutoencoder lacks them"):
        param_groups(mae, lr=0.1, weight_decay=0.05, layer_decay=0.9)


@pytest.mark.parametrize("layer_decay", [0.0, -0.5, 1.1])
def test_the_factor_has_a_range(layer_decay):
    model = MimicClassifier(VisionTransformer(HYBRID), 8)
    with pytest.raises(ConfigError, match="layer_decay"):
        param_groups(model, lr=0.1, weight_decay=0.05, layer_decay=layer_decay)
