"""What an encoder of this project is made into, for a network of another shape that starts from it."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from fer_app.errors import CheckpointError
from models.mimic import MimicClassifier
from models.vit import VisionTransformer, VitConfig
from tests.training.miniature import write_mini_ferplus
from training.checkpoint import CheckpointInfo, load_checkpoint, load_encoder, load_weights
from training.cli import train
from training.encoder_weights import fit_encoder

SEED = 3
RESIDUAL = VitConfig(
    img_size=16,
    patch_size=4,
    in_chans=1,
    embed_dim=16,
    depth=0,
    num_heads=4,
    stem="conv",
    stem_channels=(4, 6, 8),
    class_token=False,
)
HYBRID = dataclasses.replace(RESIDUAL, depth=2, class_token=True)


def classifier(config: VitConfig) -> MimicClassifier:
    model = MimicClassifier(VisionTransformer(config), 8, projection_dim=5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def described(config: VitConfig) -> CheckpointInfo:
    architecture = {"encoder": config.to_dict()}
    return CheckpointInfo(kind="encoder", architecture=architecture, counters={}, recipe={}, metrics={})


def grown(residual: MimicClassifier, config: VitConfig, seed: int = SEED) -> tuple[MimicClassifier, list[str]]:
    """Return a classifier of another shape that starts from one, head included, and what was said."""
    weights = {name: tensor.clone() for name, tensor in residual.encoder.state_dict().items()}
    notes = fit_encoder(weights, described(residual.encoder.config), config, seed)
    model = classifier(config)
    load_encoder(model.encoder, weights, may_lack_norm=True)
    rest = {name: tensor for name, tensor in residual.state_dict().items() if not name.startswith("encoder.")}
    load_weights(model, rest, may_lack=model.state_dict().keys() - rest.keys())
    return model, notes


@pytest.mark.parametrize(("depth", "said"), [(1, "1 transformer block added"), (2, "2 transformer blocks added")])
def test_a_hybrid_says_at_first_what_the_residual_network_said(depth: int, said: str) -> None:
    torch.manual_seed(0)
    residual, images = classifier(RESIDUAL), torch.randn(3, 1, 16, 16)
    hybrid, notes = grown(residual, dataclasses.replace(HYBRID, depth=depth))
    assert notes == [f"{said}, which change nothing yet"]
    torch.testing.assert_close(hybrid(images), residual(images))
    logits, _, evidence = hybrid.forward_outputs(images)
    torch.testing.assert_close(evidence.mean(dim=(2, 3)), logits)


def test_new_blocks_learn_and_are_those_of_the_seed() -> None:
    """After one step on what ends a branch, the gradient reaches all that is before it."""
    torch.manual_seed(0)
    residual = classifier(RESIDUAL)
    hybrid, again, other = (grown(copy.deepcopy(residual), HYBRID, seed)[0].encoder for seed in (SEED, SEED, SEED + 1))
    name = "blocks.1.attn.qkv.weight"
    assert torch.equal(hybrid.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(hybrid.state_dict()[name], other.state_dict()[name])
    optimizer = torch.optim.SGD(hybrid.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        hybrid(torch.randn(4, 1, 16, 16)).square().sum().backward()
        optimizer.step()
    still = [name for name, tensor in hybrid.blocks.named_parameters() if not (tensor.grad.abs() > 0).any()]
    assert not still


def test_random_numbers_of_a_run_do_not_depend_on_the_new_blocks() -> None:
    torch.manual_seed(0)
    residual = classifier(RESIDUAL)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    fit_encoder(residual.encoder.state_dict(), described(RESIDUAL), HYBRID, SEED)
    assert torch.equal(torch.rand(2), expected)


def test_a_hybrid_of_larger_pictures_goes_on_from_a_residual_network() -> None:
    torch.manual_seed(0)
    hybrid, notes = grown(classifier(RESIDUAL), dataclasses.replace(HYBRID, img_size=24))
    assert notes == ["2 transformer blocks added, which change nothing yet", "positions resized from 4 x 4 to 6 x 6"]
    assert hybrid.encoder.pos_embed.shape == (1, 37, 16)
    assert not hybrid.encoder.pos_embed[:, 0].any()


def test_a_class_token_that_is_there_stays() -> None:
    torch.manual_seed(0)
    residual = classifier(dataclasses.replace(RESIDUAL, class_token=True))
    hybrid, notes = grown(residual, HYBRID)
    assert notes == ["2 transformer blocks added, which change nothing yet"]
    assert torch.equal(hybrid.encoder.cls_token, residual.encoder.cls_token)


def test_a_hybrid_does_not_become_a_residual_network_unasked() -> None:
    """Its blocks would be lost: the run says what does not fit."""
    torch.manual_seed(0)
    with pytest.raises(CheckpointError, match=r"is not the recipe's \[model\]: its weights do not fit"):
        grown(classifier(HYBRID), RESIDUAL)


def test_training_goes_on_with_a_transformer(tmp_path: Path) -> None:
    app = Typer()
    app.command("train")(train)
    data = write_mini_ferplus(tmp_path / "data")

    def finetune(name: str, *values: str) -> tuple[str, str]:
        words = ["debug", "--data", str(data), "--run-dir", str(tmp_path / name)]
        for value in (
            "stages=['finetune']",
            "model.stem=conv",
            "model.stem_channels=[4, 6, 8, 12]",
            "finetune.epochs=1",
            "finetune.keep_head=true",
            *values,
        ):
            words += ["--set", value]
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return result.stdout.strip(), result.stderr

    residual, _ = finetune("residual", "model.depth=0")
    hybrid, told = finetune("hybrid", "model.depth=1", f"init={residual}", "finetune.base_lr=1e-12")
    assert "of the encoder of a checkpoint; 1 transformer block added, which change nothing yet" in told
    assert "head: that of best.safetensors, which knows all classes" in told
    ours, theirs = load_checkpoint(Path(hybrid))[0], load_checkpoint(Path(residual))[0]
    assert ours["encoder.blocks.0.attn.qkv.weight"].std() > 0.01
    assert ours["encoder.blocks.0.attn.proj.weight"].abs().max() < 1e-6
    assert torch.allclose(ours["head.weight"], theirs["head.weight"], atol=1e-6)
