"""The encoder in a checkpoint of this project, for a stage that starts from it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from models.pos_embed import resize_pos_embed
from models.vit import VitConfig
from training.checkpoint import CheckpointInfo, load_checkpoint


def read_encoder(path: Path) -> tuple[dict[str, Tensor], CheckpointInfo]:
    """Return the encoder's part of a checkpoint of either kind, and what the checkpoint says.

    Raises:
        CheckpointError: no file, or none of ours.
    """
    weights, info = load_checkpoint(path)
    if info.kind == "encoder":
        return weights, info
    prefix = "encoder."
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}, info


def fit_positions(weights: dict[str, Tensor], info: CheckpointInfo, config: VitConfig) -> list[str]:
    """Resample the positions of an encoder of another picture or patch size, in place.

    Args:
        weights: the encoder's.
        info: what its checkpoint says.
        config: of the encoder that starts from them.

    Returns:
        What was done, in words; empty where nothing was.
    """
    if "encoder" not in info.architecture or "pos_embed" not in weights:
        return []
    theirs = VitConfig.from_dict(info.architecture["encoder"])
    if theirs.grid_size == config.grid_size or theirs.class_token != config.class_token:
        return []
    prefix = int(theirs.class_token)
    weights["pos_embed"] = resize_pos_embed(weights["pos_embed"], theirs.grid_size, config.grid_size, prefix)
    (old_h, old_w), (height, width) = theirs.grid_size, config.grid_size
    return [f"positions resized from {old_h} x {old_w} to {height} x {width}"]
