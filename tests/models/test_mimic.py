"""The classifier: pooling, heads and what training gets from it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from fer_app.errors import ConfigError
from models.mae import MaskedAutoencoder
from models.mimic import MimicClassifier
from models.vit import VisionTransformer, VitConfig

SMALL = VitConfig(img_size=16, patch_size=4, in_chans=1, embed_dim=16, depth=2, num_heads=4)
HYBRID = dataclasses.replace(SMALL, stem="conv", stem_channels=(4, 6, 8))
RESIDUAL = dataclasses.replace(HYBRID, depth=0, class_token=False)


def make_classifier(config: VitConfig = SMALL, **kwargs) -> MimicClassifier:
    torch.manual_seed(0)
    model = MimicClassifier(VisionTransformer(config), 8, projection_dim=5, **kwargs)
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


def test_avg_pools_patches_then_normalises():
    model = make_classifier()
    torch.nn.init.normal_(model.fc_norm.weight)
    images = torch.randn(3, 1, 16, 16)
    tokens = model.encoder.encode(model.encoder.embed(images), norm=False)
    mean = torch.stack([tokens[:, i] for i in range(1, 17)]).mean(dim=0)
    expected = F.layer_norm(mean, (16,), model.fc_norm.weight, model.fc_norm.bias, eps=1e-6)
    torch.testing.assert_close(model.forward_features(images), expected)


def test_avg_drops_the_encoders_own_norm():
    assert not [name for name, _ in make_classifier().named_parameters() if name.startswith("encoder.norm")]
    assert [name for name, _ in make_classifier(global_pool="token").named_parameters() if "encoder.norm" in name]


def test_avg_without_a_class_token_pools_all_tokens():
    model = make_classifier(dataclasses.replace(SMALL, class_token=False))
    images = torch.randn(2, 1, 16, 16)
    tokens = model.encoder.forward_features(images)
    torch.testing.assert_close(model.forward_features(images), model.fc_norm(tokens.mean(dim=1)))


def test_token_takes_the_normalised_class_token():
    model = make_classifier(global_pool="token")
    images = torch.randn(3, 1, 16, 16)
    assert torch.equal(model.forward_features(images), model.encoder.forward_features(images)[:, 0])


def test_without_blocks_it_is_the_stem_with_a_head():
    model = make_classifier(RESIDUAL)
    images = torch.randn(2, 1, 16, 16)
    mean = model.encoder.patch_embed(images).mean(dim=1) + model.encoder.pos_embed.mean(dim=1)
    torch.testing.assert_close(model.forward_features(images), model.fc_norm(mean))
    model.train().forward(images).square().sum().backward()
    without_gradient = {name for name, p in model.named_parameters() if p.grad is None}
    assert {name.split(".")[0] for name in without_gradient} == {"projection"}


@pytest.mark.parametrize("config", [SMALL, HYBRID, RESIDUAL, dataclasses.replace(SMALL, class_token=False)])
def test_evidence_of_the_patches_averages_to_the_logits(config):
    model = make_classifier(config)
    torch.nn.init.normal_(model.fc_norm.weight)
    torch.nn.init.normal_(model.fc_norm.bias)
    torch.nn.init.normal_(model.head.bias)
    images = torch.randn(3, 1, 16, 16)
    logits, features, evidence = model.forward_outputs(images)
    assert model.output_names == ("logits", "features", "evidence")
    torch.testing.assert_close(logits, model(images))
    torch.testing.assert_close(features, model.forward_features(images))
    assert evidence.shape == (3, 8, *config.grid_size)
    torch.testing.assert_close(evidence.mean(dim=(2, 3)), logits, atol=1e-5, rtol=0)
    assert evidence.std(dim=(2, 3)).min() > 0.01
    # What one patch says, worked out by hand: the class token is no patch, and patches are numbered row by row.
    tokens = model.encoder.encode(model.encoder.embed(images), norm=False)[:, model.encoder.num_prefix_tokens :]
    pooled = tokens.mean(dim=1)
    deviation = (pooled.var(dim=1, unbiased=False) + 1e-6).sqrt()
    row, column = 1, config.grid_size[1] - 1
    token = tokens[0, row * config.grid_size[1] + column]
    said = model.head((token - pooled[0].mean()) / deviation[0] * model.fc_norm.weight + model.fc_norm.bias)
    torch.testing.assert_close(evidence[0, :, row, column], said, atol=1e-4, rtol=1e-4)


def test_a_class_token_has_no_evidence_of_patches():
    model = make_classifier(global_pool="token")
    images = torch.randn(2, 1, 16, 16)
    logits, features = model.forward_outputs(images)
    assert model.output_names == ("logits", "features")
    torch.testing.assert_close(logits, model(images))
    torch.testing.assert_close(features, model.forward_features(images))


def test_heads_both_read_the_feature():
    model = make_classifier()
    images = torch.randn(3, 1, 16, 16)
    features = model.forward_features(images)
    logits, z = model.forward_train(images)
    assert logits.shape == (3, 8)
    assert z.shape == (3, 5)
    torch.testing.assert_close(logits, features @ model.head.weight.T + model.head.bias)
    torch.testing.assert_close(z, model.projection(features))
    assert torch.equal(model(images), logits)


def test_a_fresh_head_says_nothing():
    model = MimicClassifier(VisionTransformer(SMALL), 8)
    assert 0 < model.head.weight.abs().max() < 2e-4
    assert not model.head.bias.any()
    assert model.projection.out_dim == 512


@pytest.mark.parametrize("config", [SMALL, HYBRID], ids=["patch", "conv"])
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_float32_outputs_under_autocast_and_every_parameter_learns(config, pool):
    model = make_classifier(config, global_pool=pool).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits, z = model.forward_train(torch.randn(4, 1, 16, 16))
        assert model(torch.randn(4, 1, 16, 16)).dtype == torch.float32
    assert logits.dtype == z.dtype == torch.float32
    (logits.square().sum() + z[:, 0].sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("config", [SMALL, HYBRID], ids=["patch", "conv"])
def test_a_batch_is_as_many_batches_of_one(config):
    model = make_classifier(config)
    images = torch.randn(4, 1, 16, 16)
    torch.testing.assert_close(model(images), torch.cat([model(i[None]) for i in images]), rtol=1e-4, atol=1e-5)
    assert model(images[:0]).shape == (0, 8)


def test_positions_learn_again_after_pretraining():
    encoder = VisionTransformer(SMALL)
    MaskedAutoencoder(encoder, 16, 1, 2)
    assert not encoder.pos_embed.requires_grad
    assert MimicClassifier(encoder, 8).encoder.pos_embed.requires_grad


def test_refuses_unknown_pooling_and_a_missing_class_token():
    with pytest.raises(ConfigError, match="avg, token"):
        MimicClassifier(VisionTransformer(SMALL), 8, global_pool="max")
    with pytest.raises(ConfigError, match="class_token"):
        MimicClassifier(VisionTransformer(dataclasses.replace(SMALL, class_token=False)), 8, global_pool="token")
