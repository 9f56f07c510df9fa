"""Published weights as a start, on files of the published names and shapes, small ones made here."""

from __future__ import annotations

import argparse
import dataclasses
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.models import VisionTransformer as TimmVisionTransformer
from torch import Tensor

from fer_app.errors import CheckpointError
from models.mae import MaskedAutoencoder
from models.mimic import MimicClassifier
from models.vit import VisionTransformer, VitConfig, vit_config
from training import public_weights
from training.checkpoint import CheckpointInfo, is_checkpoint, load_encoder, save_checkpoint
from training.model_table import ModelTable
from training.public_weights import encoder_weights, read_public_weights

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
MODEL = ModelTable(**SMALL)
CONFIG = MODEL.vit_config()

# The published lists, written out from facebookresearch/mae's models_mae.py and not from our modules.
BLOCK = [
    f"{layer}.{kind}"
    for layer in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    for kind in ("weight", "bias")
]


def encoder_names(depth: int) -> list[str]:
    stem = ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    blocks = [f"blocks.{i}.{name}" for i in range(depth) for name in BLOCK]
    return [*stem, *blocks, "norm.weight", "norm.bias"]


def decoder_names(depth: int) -> list[str]:
    stem = ["mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_embed.bias"]
    blocks = [f"decoder_blocks.{i}.{name}" for i in range(depth) for name in BLOCK]
    ends = [f"{layer}.{kind}" for layer in ("decoder_norm", "decoder_pred") for kind in ("weight", "bias")]
    return [*stem, *blocks, *ends]


def shape_of(name: str, config: VitConfig, width: int = 0) -> tuple[int, ...]:
    """The published shape; `width` is the decoder's."""
    ours = name.startswith("decoder_") or name == "mask_token"
    dim = width if ours else config.embed_dim
    rows, pixels = config.num_patches + 1, config.patch_size**2 * config.in_chans
    leaf = ".".join(name.split(".")[-2:])
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, rows, dim),
        "decoder_pos_embed": (1, rows, dim),
        "cls_token": (1, 1, dim),
        "mask_token": (1, 1, dim),
        "proj.weight": (dim, config.in_chans, config.patch_size, config.patch_size) if "patch" in name else (dim, dim),
        "qkv.weight": (3 * dim, dim),
        "qkv.bias": (3 * dim,),
        "fc1.weight": (4 * dim, dim),
        "fc1.bias": (4 * dim,),
        "fc2.weight": (dim, 4 * dim),
        "decoder_embed.weight": (dim, config.embed_dim),
        "decoder_pred.weight": (pixels, dim),
        "decoder_pred.bias": (pixels,),
    }
    return shapes.get(leaf, (dim,))


def published(names: list[str], config: VitConfig, width: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.1 * torch.randn(shape_of(name, config, width), generator=generator) for name in names}


@pytest.fixture
def encoder_state() -> dict[str, Tensor]:
    return published(encoder_names(2), CONFIG)


@pytest.fixture
def full_state(encoder_state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**encoder_state, **published(decoder_names(3), CONFIG, 32)}


def save(path: Path, held: Any, **options: Any) -> str:
    torch.save(held, path, **options)
    return str(path)


def same(weights: dict[str, Tensor], state: dict[str, Tensor]) -> bool:
    return weights.keys() == state.keys() and all(torch.equal(weights[name], state[name]) for name in state)


def test_the_base_models_names_are_the_published_ones() -> None:
    """150 tensors of the encoder, 104 of the decoder; ours and timm's have the same names and shapes."""
    config = vit_config("base")
    names, beside = encoder_names(12), decoder_names(8)
    assert (len(names), len(beside)) == (150, 104)
    with torch.device("meta"):
        ours = MaskedAutoencoder(VisionTransformer(config)).state_dict()
        theirs = timm.create_model("vit_base_patch16_224.mae", pretrained=False).state_dict()
    assert {name.removeprefix("encoder.") for name in ours} == {*names, *beside}
    assert {name: tuple(t.shape) for name, t in theirs.items()} == {name: shape_of(name, config) for name in names}
    state = {name: torch.empty(shape_of(name, config, 512), device="meta") for name in (*names, *beside)}
    assert sum(t.numel() for t in state.values()) == 111_907_840
    weights, notes = encoder_weights(state, config)
    assert sorted(weights) == sorted(names)
    assert notes == ["dropped 104 of the decoder"]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_of_the_encoder_alone(tmp_path: Path, encoder_state: dict[str, Tensor], legacy: bool) -> None:
    path = save(
        tmp_path / "mae_pretrain_vit_small.pth",
        {"model": encoder_state},
        _use_new_zipfile_serialization=not legacy,
    )
    weights, line = read_public_weights(path, MODEL)
    assert same(weights, encoder_state)
    assert line == (
        f"init: {path}: 30 tensors of the encoder; 4 heads and norms with eps 1e-06, which a file does not tell, are "
        "the recipe's"
    )
    load_encoder(VisionTransformer(CONFIG), weights, may_lack_norm=False)


def test_a_file_with_its_decoder(tmp_path: Path, encoder_state: dict[str, Tensor], full_state: dict[str, Tensor]):
    weights, line = read_public_weights(save(tmp_path / "full.pth", {"model": full_state}), MODEL)
    assert same(weights, encoder_state)
    assert f"dropped {4 + 12 * 3 + 4} of the decoder" in line


def test_what_maes_training_script_saves(tmp_path: Path, encoder_state: dict[str, Tensor], full_state: Any) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter], lr=1e-3)
    parameter.sum().backward()
    optimizer.step()
    args = argparse.Namespace(model="mae_vit_base_patch16", norm_pix_loss=True, output_dir=None, blr=1.5e-4)
    held = {
        "model": full_state,
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "scaler": {"scale": 2.0},
        "args": args,
    }
    weights, _ = read_public_weights(save(tmp_path / "checkpoint-3.pth", held), MODEL)
    assert same(weights, encoder_state)


@pytest.mark.parametrize("kind", ["bare.pth", "wrapped.pth", "half.safetensors"])
def test_a_supervised_file_loses_its_head(tmp_path: Path, encoder_state: dict[str, Tensor], kind: str) -> None:
    state = {**encoder_state, "head.weight": torch.zeros(1000, 64), "head.bias": torch.zeros(1000)}
    if kind.endswith("safetensors"):
        save_file({name: tensor.half() for name, tensor in state.items()}, tmp_path / kind)
    else:
        torch.save({"model": state} if kind == "wrapped.pth" else state, tmp_path / kind)
    weights, line = read_public_weights(str(tmp_path / kind), MODEL)
    assert weights.keys() == encoder_state.keys()
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert torch.allclose(weights["norm.bias"], encoder_state["norm.bias"], atol=1e-3)
    assert "dropped 2 of the classification head" in line


def test_a_norm_after_pooling_is_no_final_norm(tmp_path: Path, encoder_state: dict[str, Tensor]) -> None:
    state = {name: tensor for name, tensor in encoder_state.items() if not name.startswith("norm.")}
    state |= {"fc_norm.weight": torch.zeros(64), "fc_norm.bias": torch.zeros(64)}
    weights, line = read_public_weights(save(tmp_path / "a.pth", state), MODEL)
    assert "dropped 2 of the norm after pooling" in line
    assert "no final norm" in line
    load_encoder(VisionTransformer(CONFIG), weights, may_lack_norm=True)
    with pytest.raises(CheckpointError, match=r"2 missing \(norm\.bias, norm\.weight\)"):
        load_encoder(VisionTransformer(CONFIG), weights, may_lack_norm=False)


def timms(**options: Any) -> TimmVisionTransformer:
    torch.manual_seed(0)
    model = TimmVisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=4, num_classes=3, **options
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@torch.no_grad()
def test_the_encoder_computes_what_timms_does() -> None:
    """Heads, eps, biases of query, key and value, the class token's place: none may differ."""
    theirs = timms()
    weights, _ = encoder_weights(theirs.state_dict(), CONFIG)
    ours = VisionTransformer(CONFIG).eval()
    load_encoder(ours, weights, may_lack_norm=False)
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(ours.forward_features(images), theirs.forward_features(images), atol=1e-5)


@torch.no_grad()
def test_the_pooled_features_are_timms() -> None:
    """What MAE calls `--global_pool`: mean over patches, then a norm of its own."""
    theirs = timms(global_pool="avg")
    weights, _ = encoder_weights(theirs.state_dict(), CONFIG)
    encoder = VisionTransformer(CONFIG)
    load_encoder(encoder, weights, may_lack_norm=True)
    ours = MimicClassifier(encoder, 3).eval()
    ours.fc_norm.load_state_dict(theirs.fc_norm.state_dict())
    ours.head.load_state_dict(theirs.head.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(ours(images), theirs(images), atol=1e-5)


@torch.no_grad()
def test_positions_of_another_grid_are_resized_but_for_the_class_tokens(encoder_state: dict[str, Tensor]) -> None:
    config = dataclasses.replace(CONFIG, img_size=56)
    weights, notes = encoder_weights(encoder_state, config)
    assert notes == ["positions resized from 4 x 4 to 7 x 7"]
    old, new = encoder_state["pos_embed"], weights["pos_embed"]
    assert torch.equal(new[:, 0], old[:, 0])
    grid = old[:, 1:].reshape(1, 4, 4, 64).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size=(7, 7), mode="bicubic", align_corners=False)
    assert torch.allclose(new[:, 1:], expected.permute(0, 2, 3, 1).reshape(1, 49, 64), atol=1e-6)
    load_encoder(VisionTransformer(config), weights, may_lack_norm=False)


@torch.no_grad()
def test_one_channel_answers_as_gray_in_rgb_did(encoder_state: dict[str, Tensor]) -> None:
    config = dataclasses.replace(CONFIG, in_chans=1)
    weights, notes = encoder_weights(encoder_state, config)
    assert notes == ["patch embedding summed over RGB"]
    gray, rgb = VisionTransformer(config).eval(), VisionTransformer(CONFIG).eval()
    load_encoder(gray, weights, may_lack_norm=False)
    load_encoder(rgb, encoder_state, may_lack_norm=False)
    images = torch.randn(2, 1, 32, 32)
    expected = rgb.forward_features(images.expand(-1, 3, -1, -1))
    assert torch.allclose(gray.forward_features(images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dist_token": torch.zeros(1, 1, 64)}, "1 unknown (dist_token)"),
        ({"blocks.0.ls1.gamma": torch.zeros(64)}, "1 unknown (blocks.0.ls1.gamma)"),
        ({"module.norm.weight": torch.zeros(64)}, "1 unknown (module.norm.weight)"),
        ({"blocks.1.attn.qkv.bias": None}, "1 missing (blocks.1.attn.qkv.bias)"),
        ({"norm.weight": None, "norm.bias": None}, "2 missing (norm.bias, norm.weight)"),
        ({"patch_embed.proj.weight": torch.zeros(64, 3, 16, 16)}, "1 of another shape (patch_embed.proj.weight is"),
        ({"pos_embed": torch.zeros(1, 16, 64)}, "not one row for the class token and a square grid"),
        ({"pos_embed": torch.zeros(17, 64)}, "not one row for the class token and a square grid"),
        ({"extra": 3}, "1 entries are no tensors (extra)"),
    ],
)
def test_what_nothing_explains_is_named(
    tmp_path: Path, encoder_state: dict[str, Tensor], change: dict[str, Any], said: str
) -> None:
    state = {name: value for name, value in {**encoder_state, **change}.items() if value is not None}
    path = save(tmp_path / "a.pth", {"model": state})
    with pytest.raises(CheckpointError, match=re.escape(said)) as caught:
        read_public_weights(path, MODEL)
    assert path in str(caught.value)


def test_a_model_that_no_published_encoder_fits(tmp_path: Path, encoder_state: dict[str, Tensor]) -> None:
    path = save(tmp_path / "a.pth", encoder_state)
    conv = ModelTable(**{**SMALL, "stem": "conv", "stem_channels": [8, 8, 8, 8]})
    with pytest.raises(CheckpointError, match="have stem = 'patch'"):
        read_public_weights(path, conv)
    with pytest.raises(CheckpointError, match="missing"):
        read_public_weights(path, ModelTable(**{**SMALL, "depth": 3}))
    with pytest.raises(CheckpointError, match="unknown"):
        read_public_weights(path, ModelTable(**{**SMALL, "depth": 1}))


def test_heads_that_nobody_publishes_are_refused_although_the_shapes_fit(tmp_path: Path) -> None:
    """ViT-S of MoCo v3 has 12 heads, timm's and DeiT's have 6; nothing in the file tells."""
    config = vit_config("tiny", img_size=32, patch_size=16, depth=1)
    path = save(tmp_path / "a.pth", published(encoder_names(1), config))
    shape = {"size": "tiny", "img_size": 32, "depth": 1}
    read_public_weights(path, ModelTable(**shape))
    with pytest.raises(CheckpointError, match=r"width 192 are published with 3 heads, model\.num_heads is 6"):
        read_public_weights(path, ModelTable(**shape, num_heads=6))


class Foreign:
    pass


def test_files_that_are_not_weights(tmp_path: Path, encoder_state: dict[str, Tensor]) -> None:
    def refused(path: Path, said: str) -> None:
        with pytest.raises(CheckpointError, match=said) as caught:
            read_public_weights(str(path), MODEL)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "none.pth", "no checkpoint at .*none.pth: init takes")
    save(tmp_path / "object.pth", {"model": encoder_state, "args": Foreign()})
    refused(tmp_path / "object.pth", "more than weights or is damaged: .*Foreign")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"model": Foreign()}, protocol=2))
    refused(tmp_path / "pickle.pth", "more than weights or is damaged")
    (tmp_path / "text.pth").write_text("not a file of weights")
    refused(tmp_path / "text.pth", "more than weights or is damaged")
    (tmp_path / "empty.pth").write_bytes(b"")
    refused(tmp_path / "empty.pth", "not a readable torch file")
    whole = Path(save(tmp_path / "whole.pth", {"model": encoder_state})).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.pth", "not a readable torch file")
    (tmp_path / "cut.safetensors").write_bytes(b"12345")
    refused(tmp_path / "cut.safetensors", "not a readable safetensors file")
    save(tmp_path / "list.pth", [torch.zeros(1)])
    refused(tmp_path / "list.pth", "holds no state dict")
    save(tmp_path / "more.pth", {"model": encoder_state, "model_ema": {}})
    refused(tmp_path / "more.pth", "more beside 'model' than is known: model_ema")


def test_our_own_checkpoints_are_told_from_published_ones(tmp_path: Path, encoder_state: dict[str, Tensor]) -> None:
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    save_checkpoint(ours, encoder_state, CheckpointInfo(kind="encoder", architecture={}))
    save_file(encoder_state, theirs)
    assert is_checkpoint(ours)
    assert not is_checkpoint(theirs)
    assert not is_checkpoint(Path(save(tmp_path / "a.pth", encoder_state)))
    assert not is_checkpoint(tmp_path / "none")


BASE = ModelTable(size="base")


def test_the_hubs_weights_by_timms_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(hub_id: str, *, weights_only: bool) -> dict[str, Tensor]:
        asked.append((hub_id, weights_only))
        config = vit_config("base")
        return {name: torch.zeros(shape_of(name, config)) for name in encoder_names(12)}

    monkeypatch.setattr(public_weights, "load_state_dict_from_hf", download)
    weights, line = read_public_weights("timm:vit_base_patch16_224.mae", BASE)
    assert asked == [("timm/vit_base_patch16_224.mae", True)]
    assert sorted(weights) == sorted(encoder_names(12))
    assert line == "init: vit_base_patch16_224.mae: 150 tensors of the encoder; licence cc-by-nc-4.0"
    _, line = read_public_weights("timm:vit_base_patch16_224.augreg_in1k", BASE)
    assert "pre-trained on pixels with mean (0.5, 0.5, 0.5)" in line


@pytest.mark.parametrize(
    ("name", "model", "said"),
    [
        ("vit_base_patch16_224.mea", BASE, "did you mean 'vit_base_patch16_224.mae'"),
        ("", BASE, "no weights on the hub under the name ''"),
        ("resnet18.a1_in1k", BASE, "resnet18.a1_in1k is a ResNet"),
        ("vit_base_patch16_224.mae", ModelTable(size="base", num_heads=6), "it has 12 heads, model.num_heads is 6"),
        ("vit_base_patch16_clip_quickgelu_224.openai", BASE, "its norms have eps 1e-05, ours 1e-06"),
    ],
)
def test_names_that_are_refused_before_a_download(
    monkeypatch: pytest.MonkeyPatch, name: str, model: ModelTable, said: str
) -> None:
    def download(*_: Any, **__: Any) -> None:
        pytest.fail("downloaded")

    monkeypatch.setattr(public_weights, "load_state_dict_from_hf", download)
    with pytest.raises(CheckpointError, match=re.escape(said)):
        read_public_weights(f"timm:{name}", model)


def test_without_a_network_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"could not be had from the Hugging Face hub.*path of a file") as caught:
        read_public_weights("timm:vit_base_patch16_224.mae", BASE)
    assert "\n" not in str(caught.value)
