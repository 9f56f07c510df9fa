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
    if theirs.class_token != config.class_token:
        return []
    return resize_positions(weights, theirs.grid_size, config.grid_size, int(theirs.class_token))


def resize_positions(
    weights: dict[str, Tensor], old_grid: tuple[int, int], new_grid: tuple[int, int], num_prefix_tokens: int
) -> list[str]:
    """Resample `pos_embed` to another grid, in place, where it is another; what was done is returned in words."""
    if old_grid == new_grid:
        return []
    weights["pos_embed"] = resize_pos_embed(weights["pos_embed"], old_grid, new_grid, num_prefix_tokens)
    old, new = (f"{height} x {width}" for height, width in (old_grid, new_grid))
    return [f"positions resized from {old} to {new}"]
