"""Encoders that others published, as weights to start from: the hub's by timm's name, or a file.

Nothing is guessed. What a file holds beside the encoder is named and dropped (MAE's decoder, a classification head,
the norm after pooling); what is changed on the way is said (positions of another grid, colours summed to one channel);
any other name, a missing one or another shape is an error.
"""

from __future__ import annotations

import argparse
import difflib
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import VisionTransformer as TimmVisionTransformer
from timm.models import load_state_dict_from_hf
from torch import Tensor, nn

from fer_app.errors import CheckpointError
from models.vit import NORM_EPS, VIT_SIZES, VisionTransformer, VitConfig
from training.checkpoint import misfits
from training.encoder_weights import resize_positions
from training.first_few import first_few
from training.moco_v3_file import MOCO_V3_HEADS, is_moco_v3, take_base_encoder
from training.model_table import ModelTable

HUB_PREFIX = "timm:"

# MAE's training script saves these beside `model` (facebookresearch/mae, util/misc.py).
_BESIDE_MODEL = {"optimizer", "epoch", "scaler", "args"}
_NORM = ("norm.weight", "norm.bias")
# A file does not tell its heads. These are the only ones that MAE, DeiT and timm publish at these widths.
_PUBLISHED_HEADS = {embed_dim: num_heads for embed_dim, _, num_heads in VIT_SIZES.values()} | {1280: 16}


def read_public_weights(init: str, model: ModelTable) -> tuple[dict[str, Tensor], str]:
    """Read an encoder's weights.

    Args:
        init: `timm:NAME` (downloaded once by the hub's client, then read from its cache), or the path of a file: a
            `mae_pretrain_vit_*.pth`, one with its decoder (`*_full.pth`), what MAE's or MoCo v3's training script
            saves, or a supervised ViT under timm's names, `.pth` or `.safetensors`.
        model: the encoder that the weights are for.

    Returns:
        A state dict for `VisionTransformer(model.vit_config())`, float32; it lacks the final norm if the file has one
        after pooling in its place. And one line that says what was read, dropped and changed.

    Raises:
        CheckpointError: no such name or file, no network, a file that holds more than weights, or weights that are
            not those of `model`.
    """
    config = model.vit_config()
    of_hub = init.startswith(HUB_PREFIX)
    name = init.removeprefix(HUB_PREFIX)
    state, notes = _from_hub(name, model) if of_hub else (_from_file(Path(init)), [])
    of_moco_v3 = is_moco_v3(state)
    try:
        if of_moco_v3:
            state, beside = take_base_encoder(state)
        weights, changes = encoder_weights(state, config)
        if of_moco_v3:
            changes = [*beside, *changes]
        if not of_hub:
            notes = [_heads_of_file(config, MOCO_V3_HEADS if of_moco_v3 else _PUBLISHED_HEADS)]
    except CheckpointError as error:
        raise CheckpointError(f"the weights of {name} are not the recipe's [model]: {error}") from error
    return weights, f"init: {name}: " + "; ".join([f"{len(weights)} tensors of the encoder", *changes, *notes])


def encoder_weights(state: Mapping[str, Any], config: VitConfig) -> tuple[dict[str, Tensor], list[str]]:
    """Take the encoder out of a published state dict, fitted to a configuration.

    Args:
        state: a state dict under timm's names; the decoder, where there is one, under MAE's.
        config: the encoder to fit; with a patch stem.

    Returns:
        The weights as float32, and what was dropped or changed.

    Raises:
        CheckpointError: a name that nothing explains, a missing one, another shape.
    """
    if config.stem != "patch":
        raise CheckpointError(f"published encoders have stem = 'patch', not {config.stem!r}")
    if odd := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{len(odd)} entries are no tensors ({first_few(odd, 3)})")
    dropped = {
        "of the decoder": [name for name in state if name.startswith("decoder_") or name == "mask_token"],
        "of the classification head": [name for name in state if name.startswith("head.")],
        "of the norm after pooling": [name for name in state if name.startswith("fc_norm.")],
    }
    notes = [f"dropped {len(names)} {what}" for what, names in dropped.items() if names]
    gone = {name for names in dropped.values() for name in names}
    weights = {name: tensor.float() for name, tensor in state.items() if name not in gone}
    may_lack = _NORM if dropped["of the norm after pooling"] else ()
    if may_lack and not weights.keys() & set(_NORM):
        notes.append("no final norm: the one after pooling stood in its place")
    if "patch_embed.proj.weight" in weights:
        notes += _fit_channels(weights, config)
    if "pos_embed" in weights:
        notes += _fit_positions(weights, config)
    with torch.device("meta"):
        own = VisionTransformer(config).state_dict()
    if problem := misfits(own, weights, may_lack=may_lack):
        raise CheckpointError(problem)
    return weights, notes


def _fit_channels(weights: dict[str, Tensor], config: VitConfig) -> list[str]:
    """Sum an RGB patch embedding over its colours for pictures of one channel: the response to gray as R = G = B."""
    projection = weights["patch_embed.proj.weight"]
    if config.in_chans != 1 or projection.ndim != 4 or projection.shape[1] != 3:
        return []
    weights["patch_embed.proj.weight"] = projection.sum(dim=1, keepdim=True)
    return ["patch embedding summed over RGB"]


def _fit_positions(weights: dict[str, Tensor], config: VitConfig) -> list[str]:
    """Resample the positions of another square grid; the class token's, the first row, stays."""
    positions = weights["pos_embed"]
    rows = positions.shape[1] if positions.ndim == 3 else 0
    side = math.isqrt(max(rows - 1, 0))
    if not side or side * side != rows - 1:
        raise CheckpointError(
            f"pos_embed is {tuple(positions.shape)}, not one row for the class token and a square grid of others"
        )
    return resize_positions(weights, (side, side), config.grid_size, num_prefix_tokens=1)


def _from_file(path: Path) -> Mapping[str, Any]:
    """Return a file's state dict; from a pickle, nothing is read but tensors and the arguments of MAE's script."""
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}: init takes 'scratch', 'bundled', 'bundled:NAME', '{HUB_PREFIX}NAME' "
            "or the path of a file"
        )
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words go on to say how one might allow the class all the same.
        reason = str(error).partition("WeightsUnpickler error: ")[2].partition("\n")[0].partition(" Please")[0]
        raise CheckpointError(
            f"{path} is not read, it holds more than weights or is damaged: {reason or 'no pickle'}"
        ) from error
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        raise CheckpointError(
            f"{path} is not a readable torch file ({type(error).__name__}: {_first_line(error)})"
        ) from error
    if not isinstance(held, dict) or not held:
        raise CheckpointError(f"{path} holds no state dict")
    if isinstance(held.get("state_dict"), dict) and is_moco_v3(held["state_dict"]):
        moco_v3: dict[str, Any] = held["state_dict"]
        return moco_v3
    if not isinstance(held.get("model"), dict):
        return held
    if unknown := sorted(str(key) for key in held.keys() - _BESIDE_MODEL - {"model"}):
        raise CheckpointError(f"{path} holds more beside 'model' than is known: {', '.join(unknown)}")
    state: dict[str, Any] = held["model"]
    return state


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _heads_of_file(config: VitConfig, published: Mapping[int, int]) -> str:
    """Say what a file leaves open.

    Args:
        config: the recipe's.
        published: heads by width, of those who publish such files.

    Raises:
        CheckpointError: nobody publishes encoders of this width with these heads. The shapes would fit all the same.
    """
    usual = published.get(config.embed_dim, config.num_heads)
    if config.num_heads != usual:
        raise CheckpointError(
            f"encoders of width {config.embed_dim} are published with {usual} heads, model.num_heads is "
            f"{config.num_heads}"
        )
    return f"{config.num_heads} heads and norms with eps {NORM_EPS:g}, which a file does not tell, are the recipe's"


def _from_hub(name: str, model: ModelTable) -> tuple[Mapping[str, Any], list[str]]:
    """Return the hub's state dict of a timm model, after a look at what its tensors do not tell."""
    try:
        source = timm.get_pretrained_cfg(name)
    except RuntimeError:  # the architecture is known, the tag is not
        source = None
    if source is None or not source.hf_hub_id:
        near = difflib.get_close_matches(name, timm.list_pretrained(["*vit*", "*deit*"]), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise CheckpointError(f"timm has no weights on the hub under the name {name!r}{hint}")
    _compare_architecture(name, model.vit_config())
    try:
        state = load_state_dict_from_hf(source.hf_hub_id, weights_only=True)
    except Exception as error:  # the hub's client lets errors of its network library through, which is not ours
        raise CheckpointError(
            f"{source.hf_hub_id} could not be had from the Hugging Face hub, nor is it in its local cache: "
            f"{_first_line(error)} (without a network, set init to the path of a file)"
        ) from error
    notes = [f"licence {source.license}"] if source.license else []
    if len(model.mean) == len(source.mean) and (model.mean, model.std) != (source.mean, source.std):
        notes.append(f"pre-trained on pixels with mean {source.mean} and std {source.std}, which the recipe's are not")
    return state, notes


def _compare_architecture(name: str, config: VitConfig) -> None:
    """See that timm's network computes what ours does, as far as shapes would not show it."""
    with torch.device("meta"):
        theirs = timm.create_model(name, pretrained=False, num_classes=0)
    if not isinstance(theirs, TimmVisionTransformer):
        raise CheckpointError(f"{name} is a {type(theirs).__name__}, not a plain vision transformer")
    differences = []
    for module in theirs.modules():
        if isinstance(module, nn.LayerNorm) and module.eps != NORM_EPS:
            differences.append(f"its norms have eps {module.eps:g}, ours {NORM_EPS:g}")
        if isinstance(module, timm.layers.Attention) and module.num_heads != config.num_heads:
            differences.append(f"it has {module.num_heads} heads, model.num_heads is {config.num_heads}")
        if isinstance(module, timm.layers.Mlp) and not (
            isinstance(module.act, nn.GELU) and module.act.approximate == "none"
        ):
            differences.append(f"its activation is {module.act}, ours GELU")
    if differences:
        raise CheckpointError(f"{name} is not the recipe's [model]: {'; '.join(dict.fromkeys(differences))}")
