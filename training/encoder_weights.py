"""The encoder in a checkpoint of this project, for a stage that starts from it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fer_app.errors import CheckpointError
from models.pos_embed import resize_pos_embed
from models.vit import INIT_STD, VitConfig, init_transformer_weights, transformer_block
from training.checkpoint import CheckpointInfo, load_checkpoint


def read_encoder(path: Path) -> tuple[dict[str, Tensor], CheckpointInfo]:
    """Return the encoder's part of a checkpoint of either kind, and what the checkpoint says.

    Raises:
        CheckpointError: no file, none of ours, or an ensemble's, which has several.
    """
    weights, info = load_checkpoint(path)
    if info.kind == "encoder":
        return weights, info
    if "members" in info.architecture:
        raise CheckpointError(f"{path} is an ensemble: nothing starts from it; name one of its members")
    prefix = "encoder."
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}, info


def fit_encoder(weights: dict[str, Tensor], info: CheckpointInfo, config: VitConfig, seed: int) -> list[str]:
    """Make the encoder of a residual network one with a transformer, and positions those of another grid, in place.

    Args:
        weights: the encoder's.
        info: what its checkpoint says.
        config: of the encoder that starts from them.
        seed: of the random numbers in a new transformer.

    Returns:
        What was done, in words; empty where nothing was.
    """
    if "encoder" not in info.architecture or "pos_embed" not in weights:
        return []
    theirs = VitConfig.from_dict(info.architecture["encoder"])
    notes = []
    if theirs.depth == 0 and config.depth > 0:
        new_token = config.class_token and not theirs.class_token
        notes.append(_add_transformer(weights, config, seed, class_token=new_token))
    elif theirs.class_token != config.class_token:
        return []
    return notes + resize_positions(weights, theirs.grid_size, config.grid_size, int(config.class_token))


def _add_transformer(weights: dict[str, Tensor], config: VitConfig, seed: int, *, class_token: bool) -> str:
    """Add blocks that hand on what they are given, so that the network says what it said; return that in words.

    The layers that a block's two branches end with are zero, as the last ones of Net2Net's new layers are the identity
    (Chen et al. 2016, arXiv:1511.05641); all else is what a new encoder has.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for index in range(config.depth):
            block = transformer_block(config.embed_dim, config.num_heads, config.mlp_ratio)
            block.apply(init_transformer_weights)
            for name, tensor in block.state_dict().items():
                ends = name.startswith(("attn.proj.", "mlp.fc2."))
                weights[f"blocks.{index}.{name}"] = torch.zeros_like(tensor) if ends else tensor
        if class_token:
            width = weights["pos_embed"].shape[-1]
            weights["cls_token"] = torch.nn.init.normal_(torch.empty(1, 1, width), std=INIT_STD)
            weights["pos_embed"] = torch.cat([torch.zeros(1, 1, width), weights["pos_embed"]], dim=1)
    return f"{config.depth} transformer block{'s' * (config.depth > 1)} added, which change nothing yet"


def resize_positions(
    weights: dict[str, Tensor], old_grid: tuple[int, int], new_grid: tuple[int, int], num_prefix_tokens: int
) -> list[str]:
    """Resample `pos_embed` to another grid, in place, where it is another; what was done is returned in words."""
    if old_grid == new_grid:
        return []
    weights["pos_embed"] = resize_pos_embed(weights["pos_embed"], old_grid, new_grid, num_prefix_tokens)
    old, new = (f"{height} x {width}" for height, width in (old_grid, new_grid))
    return [f"positions resized from {old} to {new}"]
