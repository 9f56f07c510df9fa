"""The table `[model]` of a recipe, see `training.recipe`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from fer_app.contract import ColorMode, Interpolation
from fer_app.errors import ConfigError
from models.vit import VitConfig, vit_config
from models.wide_resnet import check_shape
from training.augment import AugmentSpec, BatchAugment
from training.stage_table import LATER, Table


class ModelTable(Table):
    """The network, and the pixels it sees. `size` sets embed_dim, depth and num_heads unless they are given.

    With `depth = 0` the tokens of a convolutional stem, with their positions added, are averaged: a residual network.
    With `backbone = "wide_resnet"` it is a WideResNet (`wrn_...`), and what describes a transformer is of no effect.
    """

    size: Literal["tiny", "small", "base", "large"] = "tiny"
    img_size: PositiveInt = 224
    patch_size: PositiveInt = 16
    color_mode: ColorMode = "rgb"
    in_chans: Literal[1, 3] = 3
    mean: tuple[float, ...] = Field((0.485, 0.456, 0.406), strict=False)
    std: tuple[float, ...] = Field((0.229, 0.224, 0.225), strict=False)
    interpolation: Interpolation = "bilinear"
    embed_dim: PositiveInt | None = None
    depth: NonNegativeInt | None = None
    num_heads: PositiveInt | None = None
    stem: Literal["patch", "conv"] = "patch"
    stem_channels: tuple[PositiveInt, ...] = Field((), strict=False)
    stem_blocks: PositiveInt = 1
    drop_path_rate: float = Field(0.0, ge=0.0, lt=1.0)
    backbone: Annotated[Literal["vit", "wide_resnet"], LATER] = "vit"
    wrn_depth: Annotated[PositiveInt, LATER] = 28
    wrn_widen_factor: Annotated[PositiveInt, LATER] = 2
    wrn_bn_momentum: Annotated[float, Field(gt=0.0, le=1.0), LATER] = 0.001

    def wide_resnet_shape(self) -> dict[str, Any]:
        """Return the arguments of `WideResNet` beside the number of classes.

        Raises:
            ConfigError: there is no such network.
        """
        check_shape(self.wrn_depth, self.wrn_widen_factor)
        return {
            "depth": self.wrn_depth,
            "widen_factor": self.wrn_widen_factor,
            "in_chans": self.in_chans,
            "bn_momentum": self.wrn_bn_momentum,
        }

    def vit_config(self, *, drop_path_rate: float = 0.0) -> VitConfig:
        """Return the encoder's architecture; stochastic depth is off unless asked for.

        Raises:
            ConfigError: there is no such network.
        """
        if self.depth == 0 and self.stem == "patch":
            raise ConfigError("depth = 0 is for stem = 'conv': patches alone are no network")
        given = {"embed_dim": self.embed_dim, "depth": self.depth, "num_heads": self.num_heads}
        return vit_config(
            self.size,
            img_size=self.img_size,
            patch_size=self.patch_size,
            in_chans=self.in_chans,
            stem=self.stem,
            stem_channels=self.stem_channels,
            stem_blocks=self.stem_blocks,
            drop_path_rate=drop_path_rate,
            class_token=self.depth != 0,  # nothing attends to it
            **{name: value for name, value in given.items() if value is not None},
        )

    def augmentation(self, spec: AugmentSpec) -> BatchAugment:
        """Return the augmentation whose identity setting is this network's serving preprocess."""
        return BatchAugment(
            spec,
            self.img_size,
            self.mean,
            self.std,
            color_mode=self.color_mode,
            interpolation=self.interpolation,
        )
