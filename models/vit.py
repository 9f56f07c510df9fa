"""The vision transformer encoder (Dosovitskiy et al. 2021, arXiv:2010.11929), plain or with a convolutional stem.

Its parameters carry timm's names, so that the published MAE encoders (`mae_pretrain_vit_*.pth`, timm's
`vit_*_patch16_224.mae`) load by key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fer_app.errors import ConfigError, InputError
from models.conv_stem import ConvStem
from models.pos_embed import sincos_2d

NORM_EPS = 1e-6
INIT_STD = 0.02

VIT_SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
"""Named sizes: (embed_dim, depth, num_heads)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitConfig:
    """The shape of an encoder. It travels in checkpoints as JSON.

    Attributes:
        img_size: side of the square input in px.
        patch_size: side of a patch in px; with a convolutional stem the stem's total stride.
        in_chans: channels of the input.
        embed_dim: width D of the tokens; a multiple of 4 and of `num_heads`.
        depth: transformer blocks; may be 0 with a convolutional stem.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLPs as a multiple of D.
        stem: `patch`, a linear projection of patches, or `conv`, a residual stem.
        stem_channels: widths of the residual stem, one more than halvings; empty with `patch`.
        stem_blocks: residual blocks in every stage of the stem.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 at the first.
        class_token: whether a learnt token comes before the patch tokens.
    """

    img_size: int = 224
    patch_size: int = 16
    in_chans: int = 3
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    stem: Literal["patch", "conv"] = "patch"
    stem_channels: tuple[int, ...] = ()
    stem_blocks: int = 1
    drop_path_rate: float = 0.0
    class_token: bool = True

    def __post_init__(self) -> None:
        sizes = (self.img_size, self.patch_size, self.in_chans, self.embed_dim, self.num_heads, self.stem_blocks)
        if min(sizes) < 1 or self.depth < 0:
            raise ConfigError(f"an encoder's sizes must be positive: {self}")
        stem_stride = 2 ** (len(self.stem_channels) - 1) if self.stem_channels else None
        conv = self.stem == "conv"
        checks = [
            (self.img_size % self.patch_size == 0, f"img_size {self.img_size} is no multiple of {self.patch_size}"),
            (self.embed_dim % self.num_heads == 0, f"{self.num_heads} heads do not divide embed_dim {self.embed_dim}"),
            (self.embed_dim % 4 == 0, f"embed_dim {self.embed_dim} is no multiple of 4 (sine-cosine positions)"),
            (0.0 <= self.drop_path_rate < 1.0, f"drop_path_rate {self.drop_path_rate} is not in [0, 1)"),
            (self.stem in ("patch", "conv"), f"stem is {self.stem!r}, not 'patch' or 'conv'"),
            (conv or not self.stem_channels, "stem_channels are given, but stem is 'patch'"),
            (
                not conv or stem_stride == self.patch_size,
                f"{len(self.stem_channels)} stem_channels make a stride of {stem_stride}, patch_size is "
                f"{self.patch_size}: one width for full resolution and one for every halving are needed",
            ),
        ]
        if problems := [message for holds, message in checks if not holds]:
            raise ConfigError("the encoder's configuration does not hold: " + "; ".join(problems))

    @property
    def grid_size(self) -> tuple[int, int]:
        """Height and width of the token grid."""
        side = self.img_size // self.patch_size
        return side, side

    @property
    def num_patches(self) -> int:
        """N, the number of patch tokens."""
        return self.grid_size[0] * self.grid_size[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON knows them (tuples as lists)."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` made.

        Raises:
            ConfigError: a field is unknown, or the values do not fit together.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise ConfigError(f"the encoder's configuration has unknown fields: {', '.join(unknown)}")
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fields)


def vit_config(size: str, **overrides: Any) -> VitConfig:
    """Return the configuration of a named size.

    Args:
        size: a key of `VIT_SIZES`.
        **overrides: further fields of `VitConfig`.

    Raises:
        ConfigError: there is no such size, or the values do not fit together.
    """
    if size not in VIT_SIZES:
        raise ConfigError(f"there is no encoder size {size!r}; there are {', '.join(VIT_SIZES)}")
    embed_dim, depth, num_heads = VIT_SIZES[size]
    return VitConfig(**{"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, **overrides})


def init_transformer_weights(module: nn.Module) -> None:
    """Initialise one module as MAE does; for `nn.Module.apply`.

    Linear layers: Xavier uniform, zero bias. LayerNorm: 1 and 0.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def transformer_block(dim: int, num_heads: int, mlp_ratio: float, drop_path: float = 0.0) -> nn.Module:
    """Return one pre-norm block with MAE's settings: query, key and value biases, LayerNorm eps 1e-6, GELU."""
    block: nn.Module = Block(
        dim,
        num_heads,
        mlp_ratio=mlp_ratio,
        qkv_bias=True,
        drop_path=drop_path,
        norm_layer=make_norm,
    )
    return block


def make_norm(dim: int, **kwargs: Any) -> nn.LayerNorm:
    """Return a LayerNorm with MAE's eps."""
    return nn.LayerNorm(dim, eps=NORM_EPS, **kwargs)


def layers_of_encoder() -> dict[str, Any]:
    """Tell timm which parameter of a model's `encoder` belongs to which layer, as a model's `group_matcher` does.

    The stem is layer 0, block i is layer i + 1, everything unmatched is the last layer. The groups are non-capturing
    but for the block's number: timm reads every captured text as a number.
    """
    return {
        "stem": r"^encoder\.(?:cls_token|pos_embed|patch_embed)",
        "blocks": [(r"^encoder\.blocks\.(\d+)", None)],
    }


class Blocks(nn.Sequential):
    """Transformer blocks in a row.

    With `grad_checkpointing`, training keeps only what goes into each block and computes the rest again on the way
    back (Chen et al. 2016, arXiv:1604.06174): less memory for about a third more time, the same gradients.
    """

    grad_checkpointing = False

    def forward(self, tokens: Tensor) -> Tensor:
        """Run all blocks: (B, n, D) to (B, n, D)."""
        again = self.grad_checkpointing and self.training
        for block in self:
            tokens = checkpoint(block, tokens, use_reentrant=False) if again else block(tokens)
        return tokens


class VisionTransformer(nn.Module):
    """Pictures to tokens.

    The steps are separate methods, since masked pre-training drops tokens between them: `embed` makes patch tokens
    with positions, `encode` runs whatever tokens are left.

    Args:
        config: the shape.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        self.num_prefix_tokens = int(config.class_token)
        dim = config.embed_dim
        self.patch_embed: nn.Module
        if config.stem == "conv":
            self.patch_embed = ConvStem(config.in_chans, config.stem_channels, dim, config.stem_blocks)
        else:
            self.patch_embed = PatchEmbed(config.img_size, config.patch_size, config.in_chans, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.class_token else None
        positions = sincos_2d(dim, config.grid_size, config.class_token)
        self.pos_embed = nn.Parameter(positions[None])
        drop_path = [config.drop_path_rate * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = Blocks(*(transformer_block(dim, config.num_heads, config.mlp_ratio, rate) for rate in drop_path))
        self.norm: nn.Module = make_norm(dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as MAE does; the position embedding keeps its sine-cosine values."""
        self.blocks.apply(init_transformer_weights)
        if isinstance(self.patch_embed, ConvStem):
            self.patch_embed.reset_parameters()
        else:
            projection = self.patch_embed.get_submodule("proj")
            assert isinstance(projection, nn.Conv2d)
            assert projection.bias is not None
            # As the linear layer that it is: fan-in is C * p * p, fan-out is D.
            nn.init.xavier_uniform_(projection.weight.flatten(1))
            nn.init.zeros_(projection.bias)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=INIT_STD)

    def embed(self, images: Tensor) -> Tensor:
        """Make patch tokens with their positions added, without the class token.

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.

        Returns:
            (B, N, D), N patches numbered row by row.

        Raises:
            InputError: the pictures have another shape.
        """
        config = self.config
        expected = (config.in_chans, config.img_size, config.img_size)
        if tuple(images.shape[1:]) != expected:
            raise InputError(f"the encoder takes pictures of shape (B, {expected}), got {tuple(images.shape)}")
        tokens: Tensor = self.patch_embed(images)
        return tokens + self.pos_embed[:, self.num_prefix_tokens :]

    def encode(self, tokens: Tensor, *, norm: bool = True) -> Tensor:
        """Prepend the class token and run the blocks.

        Args:
            tokens: (B, n, D), any n of the N patch tokens, positions already added.
            norm: whether the final LayerNorm is applied.

        Returns:
            (B, 1 + n, D), or (B, n, D) without a class token.
        """
        if self.cls_token is not None:
            cls_token = self.cls_token + self.pos_embed[:, :1]
            tokens = torch.cat([cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        tokens = self.blocks(tokens)
        return self.norm(tokens) if norm else tokens

    def forward_features(self, images: Tensor) -> Tensor:
        """Return all tokens of whole pictures, class token first: `encode(embed(images))`, (B, 1 + N, D)."""
        return self.encode(self.embed(images))

    def forward(self, images: Tensor) -> Tensor:
        """Return `forward_features(images)`."""
        return self.forward_features(images)
