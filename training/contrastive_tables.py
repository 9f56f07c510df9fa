"""The tables `[pretrain.moco]` and `[pretrain.mimco]` of a recipe: what contrastive pre-training is set by."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from models.mimco import HeadKind, ImagePool
from training.augment import AugmentSpec, Probability
from training.losses.info_nce_loss import Negatives
from training.stage_table import Table


class MocoTable(Table):
    """MoCo v3 (Chen, Xie, He 2021, arXiv:2104.02057). The defaults are the published ones for vision transformers.

    The first view is augmented by `[pretrain.augment]`, the second by `second_augment` or, without it, the same; the
    second is also solarised with probability `solarize_p`. `momentum` rises to 1 along a cosine unless
    `momentum_schedule = "constant"`.
    """

    mlp_dim: PositiveInt = 4096
    out_dim: PositiveInt = 256
    temperature: PositiveFloat = 0.2
    momentum: Annotated[float, Field(ge=0.0, le=1.0)] = 0.99
    momentum_schedule: Literal["cosine", "constant"] = "cosine"
    freeze_patch_embed: bool = True
    second_augment: AugmentSpec | None = None
    solarize_p: Probability = 0.2


class MimcoTable(Table):
    """After MimCo (Zhou et al. 2022, arXiv:2209.03063); what is not the paper's: `training.mimco_pretraining`.

    `teacher` is a checkpoint of ours, `timm:NAME`, a file of published weights, or `recipe:NAME` in a sweep. The
    shape of a published one is `[model]`'s, but for `teacher_size` and `teacher_num_heads` where they are given.
    Blocks of `mask_block_px` are masked until `pretrain.mask_ratio` of them are. A weight of 0 turns a loss off.
    """

    teacher: str = ""
    teacher_size: Literal["tiny", "small", "base", "large"] | None = None
    teacher_num_heads: PositiveInt | None = None
    mask_block_px: PositiveInt = 32
    patch_weight: NonNegativeFloat = 1.0
    patch_temperature: PositiveFloat = 0.1
    patch_negatives: Negatives = "picture"
    image_weight: NonNegativeFloat = 1.0
    image_temperature: PositiveFloat = 0.2
    image_pool: ImagePool = "token"
    head: HeadKind = "linear"
    mlp_dim: PositiveInt = 4096
