"""The files of MoCo v3's own training script (facebookresearch/moco-v3), as weights to start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

MOCO_V3_HEADS: Final[Mapping[int, int]] = {384: 12, 768: 12}
"""Heads of its encoders by width. Its ViT-S has twelve; timm's and DeiT's have six, with tensors of the same shapes."""

_BASE: Final = "module.base_encoder."
_BESIDE: Final = ("module.momentum_encoder.", "module.predictor.")
_HEAD: Final = "head."  # the projector, in the place of timm's classification head


def is_moco_v3(state: Mapping[str, Any]) -> bool:
    """Whether a state dict has MoCo v3's names."""
    return any(name.startswith(_BASE) for name in state)


def take_base_encoder(state: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Take out the encoder that was trained, under timm's names.

    Args:
        state: names as in the published files.

    Returns:
        The encoder's entries, and everything under a name that nothing explains; and what was dropped.
    """
    of_slow = [name for name in state if name.startswith(_BESIDE)]
    of_projector = [name for name in state if name.startswith(_BASE + _HEAD)]
    gone = {*of_slow, *of_projector}
    kept = {name.removeprefix(_BASE): value for name, value in state.items() if name not in gone}
    return kept, [f"dropped {len(of_projector)} of the projector, {len(of_slow)} of MoCo v3's other networks"]
