"""PLL-FER's classifier: an encoder whose patch tokens a label decoder reads."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fer_app.errors import ConfigError
from models.hog import HogAutoencoder
from models.pll_fer import PllFerClassifier
from models.vit import VisionTransformer, VitConfig
from training.layer_decay import param_groups

SMALL = VitConfig(img_size=16, patch_size=4, in_chans=1, embed_dim=16, depth=2, num_heads=4)


def make_classifier(config: VitConfig = SMALL, **sizes: int) -> PllFerClassifier:
    torch.manual_seed(0)
    model = PllFerClassifier(VisionTransformer(config), 8, **{"num_heads": 2, "ffn_dim": 20, **sizes})
    return model.eval()


def test_the_decoder_reads_normalised_patch_tokens() -> None:
    model, images = make_classifier(), torch.randn(3, 1, 16, 16)
    tokens = model.encoder.forward_features(images)[:, 1:]
    decoded, weights = model.decoder(tokens)
    logits, attention = model.attend(images)
    assert logits.shape == (3, 8)
    torch.testing.assert_close(logits, model.decoder.logits(decoded))
    torch.testing.assert_close(model.forward_features(images), decoded.reshape(3, -1))
    for row in range(4):
        for column in range(4):
            torch.testing.assert_close(attention[:, :, row, column], weights[:, :, 4 * row + column])
    torch.testing.assert_close(attention.sum(dim=(2, 3)), torch.ones(3, 8))
    assert torch.equal(model(images), logits)
    outputs = dict(zip(model.output_names, model.forward_outputs(images), strict=True))
    assert torch.equal(outputs["logits"], logits)
    assert torch.equal(outputs["features"], model.forward_features(images))
    assert torch.equal(outputs["attention"], attention)


def test_an_encoder_without_a_class_token_gives_all_its_tokens() -> None:
    model = make_classifier(dataclasses.replace(SMALL, class_token=False))
    logits, attention = model.attend(torch.randn(2, 1, 16, 16))
    assert attention.shape == (2, 8, 4, 4)
    assert logits.isfinite().all()


def test_training_gets_the_logits_and_unit_queries() -> None:
    model, images = make_classifier(), torch.randn(3, 1, 16, 16)
    logits, queries = model.forward_train(images)
    assert torch.equal(logits, model(images))
    torch.testing.assert_close(queries, model.decoder.queries / model.decoder.queries.norm(dim=1, keepdim=True))


def test_float32_outputs_under_autocast_and_every_parameter_learns() -> None:
    model = make_classifier().train()
    with torch.autocast("cpu", torch.bfloat16):
        logits, queries = model.forward_train(torch.randn(4, 1, 16, 16))
        attention = model.attend(torch.randn(4, 1, 16, 16))[1]
    assert logits.dtype == queries.dtype == attention.dtype == torch.float32
    (logits.square().sum() + queries[:, 0].sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_batch_is_as_many_batches_of_one() -> None:
    model, images = make_classifier(), torch.randn(4, 1, 16, 16)
    torch.testing.assert_close(model(images), torch.cat([model(i[None]) for i in images]), rtol=1e-4, atol=1e-5)
    assert model(images[:0]).shape == (0, 8)


def test_positions_learn_again_after_pretraining() -> None:
    encoder = VisionTransformer(SMALL)
    HogAutoencoder(encoder, 16, 1, 2, cell_px=2)
    assert not encoder.pos_embed.requires_grad
    assert PllFerClassifier(encoder, 8).encoder.pos_embed.requires_grad


def test_the_decoder_is_the_last_layer_and_queries_do_not_decay() -> None:
    model = make_classifier()
    groups = param_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    of = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    found = {name: of[id(p)] for name, p in model.named_parameters()}
    assert found["encoder.patch_embed.proj.weight"] == (0.125, 0.1)
    assert found["encoder.blocks.1.mlp.fc1.weight"] == (0.5, 0.1)
    assert found["encoder.norm.weight"] == (1.0, 0.0)
    assert found["decoder.layers.0.ffn.0.weight"] == found["decoder.weight"] == (1.0, 0.1)
    assert found["decoder.queries"] == found["decoder.bias"] == (1.0, 0.0)


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 heads"):
        make_classifier(num_heads=3)
