"""Files of MoCo v3's own script, and the trap in them: its ViT-S has twelve heads, timm's six, and shapes agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from fer_app.errors import CheckpointError
from models.moco_v3 import MocoV3
from models.vit import VisionTransformer, vit_config
from training.model_table import ModelTable
from training.public_weights import read_public_weights

VIT_S = {"size": "small", "img_size": 32, "patch_size": 16, "depth": 2}


def published(model: ModelTable) -> dict[str, Tensor]:
    """A state dict under the names that moco-v3's main_moco.py saves, of a small depth and grid."""
    torch.manual_seed(0)
    encoder = VisionTransformer(model.vit_config())
    moco = MocoV3(encoder, 16, 8)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = {}
    for ours, theirs in (("", "base_encoder"), ("momentum_", "momentum_encoder")):
        networks = (moco.get_submodule(f"{ours}encoder"), moco.get_submodule(f"{ours}projector"))
        for network, prefix in zip(networks, ("", "head."), strict=True):
            state |= {f"module.{theirs}.{prefix}{name}": value for name, value in network.state_dict().items()}
    return state | {f"module.predictor.{name}": value for name, value in moco.predictor.state_dict().items()}


def save(path: Path, state: dict[str, Any]) -> str:
    beside = {"epoch": 300, "arch": "vit_small", "optimizer": {"state": {}, "param_groups": []}, "scaler": {}}
    torch.save({"state_dict": state, **beside}, path)
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return save(tmp_path / "vit-s-300ep.pth.tar", published(ModelTable(num_heads=12, **VIT_S)))


def test_the_encoder_that_was_trained_is_taken(file: str) -> None:
    model = ModelTable(num_heads=12, **VIT_S)
    weights, line = read_public_weights(file, model)
    state = published(model)
    prefix = "module.base_encoder."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    own = {name: value for name, value in own.items() if not name.startswith("head.")}
    assert weights.keys() == own.keys() == VisionTransformer(model.vit_config()).state_dict().keys()
    assert all(torch.equal(weights[name], own[name]) for name in own)
    assert "12 heads" in line
    assert "of the projector" in line
    assert "MoCo v3's other networks" in line


def test_six_heads_are_refused_though_every_shape_fits(file: str) -> None:
    """Loaded silently, the network would compute something else."""
    six, twelve = ModelTable(**VIT_S), ModelTable(num_heads=12, **VIT_S)
    assert timm.create_model("vit_small_patch16_224").blocks[0].attn.num_heads == 6 == six.vit_config().num_heads
    weights, _ = read_public_weights(file, twelve)
    networks = [VisionTransformer(model.vit_config()).eval() for model in (six, twelve)]
    images = torch.randn(1, 3, 32, 32)
    outputs = []
    for network in networks:
        network.load_state_dict(weights)
        with torch.no_grad():
            outputs.append(network(images))
    assert not torch.allclose(*outputs, atol=1e-2)
    with pytest.raises(CheckpointError, match=r"width 384 are published with 12 heads, model\.num_heads is 6"):
        read_public_weights(file, six)


def test_files_of_others_at_that_width_still_need_six(tmp_path: Path) -> None:
    state = VisionTransformer(vit_config("small", img_size=32, depth=2)).state_dict()
    torch.save({"model": state}, tmp_path / "deit_small.pth")
    read_public_weights(str(tmp_path / "deit_small.pth"), ModelTable(**VIT_S))
    with pytest.raises(CheckpointError, match="published with 6 heads"):
        read_public_weights(str(tmp_path / "deit_small.pth"), ModelTable(num_heads=12, **VIT_S))


def test_a_name_that_nothing_explains_is_refused(tmp_path: Path) -> None:
    model = ModelTable(num_heads=12, **VIT_S)
    odd = save(tmp_path / "odd.pth.tar", {**published(model), "module.queue": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"1 unknown \(module.queue\)"):
        read_public_weights(odd, model)
