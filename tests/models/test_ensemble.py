"""Ensembles of classifiers: the mean of calibrated logits, and the outputs that all members have."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fer_app.errors import ConfigError
from models.ensemble import Ensemble
from models.mimic import MimicClassifier
from models.pll_fer import PllFerClassifier
from models.vit import VisionTransformer, VitConfig
from models.wide_resnet import WideResNet

TEMPERATURES = (0.5, 2.0)


def encoder(seed: int, patch_size: int = 8, width: int = 16) -> VisionTransformer:
    torch.manual_seed(seed)
    shape = {"img_size": 16, "patch_size": patch_size, "in_chans": 1, "embed_dim": width, "depth": 1, "num_heads": 2}
    return VisionTransformer(VitConfig(**shape))


def mimic(seed: int, patch_size: int = 8, width: int = 16) -> MimicClassifier:
    model = MimicClassifier(encoder(seed, patch_size, width), 4, projection="none")
    nn.init.normal_(model.head.weight)
    return model


def images() -> torch.Tensor:
    return torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(5))


def test_the_answer_is_the_mean_of_calibrated_logits() -> None:
    members = [mimic(1), mimic(2, width=32)]
    ensemble = Ensemble(members, TEMPERATURES).eval()
    expected = (members[0](images()) / 0.5 + members[1](images()) / 2.0) / 2
    torch.testing.assert_close(ensemble(images()), expected)
    features = ensemble.forward_features(images())
    torch.testing.assert_close(features, torch.cat([m.forward_features(images()) for m in members], dim=1))
    again = Ensemble([mimic(3), mimic(4, width=32)], (1.0, 1.0)).eval()
    again.load_state_dict(ensemble.state_dict())  # temperatures are part of it
    torch.testing.assert_close(again(images()), expected)


def test_with_mirror_images_a_face_and_its_mirror_image_are_one() -> None:
    members = [mimic(1), mimic(2, width=32)]
    plain, mirrored = Ensemble(members, TEMPERATURES).eval(), Ensemble(members, TEMPERATURES, mirrored=True).eval()
    shown = images()
    expected = (plain(shown) + plain(shown.flip(-1))) / 2
    torch.testing.assert_close(mirrored(shown), expected)
    torch.testing.assert_close(mirrored(shown.flip(-1)), expected)
    assert (plain(shown) - expected).abs().max() > 0.1
    logits, features, evidence = mirrored.forward_outputs(shown)
    torch.testing.assert_close(logits, expected)
    both = (plain.forward_features(shown) + plain.forward_features(shown.flip(-1))) / 2
    torch.testing.assert_close(features, both)
    torch.testing.assert_close(mirrored.forward_features(shown), both)
    # What speaks for a class lies where it lies in the picture.
    own, other = plain.forward_outputs(shown)[2], plain.forward_outputs(shown.flip(-1))[2]
    torch.testing.assert_close(evidence, (own + other.flip(-1)) / 2)
    torch.testing.assert_close(evidence.mean(dim=(2, 3)), logits)
    single = Ensemble(members[:1], (1.0,), mirrored=True).eval()
    torch.testing.assert_close(single(shown), (members[0](shown) + members[0](shown.flip(-1))) / 2)


def test_further_outputs_are_those_that_all_members_have() -> None:
    both = Ensemble([mimic(1), mimic(2, width=32)], TEMPERATURES).eval()
    assert both.output_names == ("logits", "features", "evidence")
    logits, features, evidence = both.forward_outputs(images())
    torch.testing.assert_close(logits, both(images()))
    assert features.shape == (3, 48)
    torch.testing.assert_close(evidence.mean(dim=(2, 3)), logits)

    decoders = [PllFerClassifier(encoder(seed), 4, depth=1, num_heads=2, ffn_dim=8) for seed in (1, 2)]
    attentive = Ensemble(decoders, TEMPERATURES).eval()
    assert attentive.output_names == ("logits", "features", "attention")
    _, _, attention = attentive.forward_outputs(images())
    torch.testing.assert_close(attention, sum(one.attend(images())[1] for one in decoders) / 2)
    torch.testing.assert_close(attention.sum(dim=(2, 3)), torch.ones(3, 4))


@pytest.mark.parametrize(
    "other",
    [
        mimic(2, patch_size=4),
        WideResNet(4, depth=10, widen_factor=1, in_chans=1),
        PllFerClassifier(encoder(2), 4, depth=1, num_heads=2, ffn_dim=8),
    ],
    ids=["other grid", "no grid", "other map"],
)
def test_maps_that_do_not_fit_each_other_are_left_out(other: nn.Module) -> None:
    mixed = Ensemble([mimic(1), other], TEMPERATURES).eval()
    assert mixed.output_names == ("logits", "features")
    logits, features = mixed.forward_outputs(images())
    torch.testing.assert_close(logits, mixed(images()))
    torch.testing.assert_close(features, mixed.forward_features(images()))


def test_what_cannot_answer_together_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"an ensemble of 2 networks has the temperatures \[1.0\]"):
        Ensemble([mimic(1), mimic(2)], [1.0])
    with pytest.raises(ConfigError, match="temperatures"):
        Ensemble([mimic(1)], [0.0])
    with pytest.raises(ConfigError, match="temperatures"):
        Ensemble([], [])
    with pytest.raises(ConfigError, match="differ in their number of classes"):
        Ensemble([mimic(1), WideResNet(5, depth=10, widen_factor=1, in_chans=1)], [1.0, 1.0])
