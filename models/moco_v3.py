"""MoCo v3 (Chen, Xie, He 2021, arXiv:2104.02057): pre-training an encoder by telling pictures apart."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_app.errors import ConfigError
from models.conv_stem import ConvStem
from models.vit import VisionTransformer

CLS_INIT_STD = 1e-6


def mlp_head(num_layers: int, in_dim: int, mlp_dim: int, out_dim: int, *, last_norm: bool) -> nn.Sequential:
    """Return linear layers without biases, with batch norm and ReLU between them (`_build_mlp` of the published code).

    Args:
        num_layers: linear layers.
        in_dim: width of what comes in.
        mlp_dim: width of the hidden layers.
        out_dim: width of what comes out.
        last_norm: whether a batch norm without scale and shift follows the last layer.
    """
    widths = [in_dim, *[mlp_dim] * (num_layers - 1), out_dim]
    layers: list[nn.Module] = []
    for i in range(num_layers):
        layers.append(nn.Linear(widths[i], widths[i + 1], bias=False))
        if i < num_layers - 1:
            layers += [nn.BatchNorm1d(widths[i + 1]), nn.ReLU(inplace=True)]
        elif last_norm:
            layers.append(nn.BatchNorm1d(widths[i + 1], affine=False))
    return nn.Sequential(*layers)


@torch.no_grad()
def init_moco_v3_weights(encoder: VisionTransformer) -> None:
    """Initialise what MoCo v3 initialises otherwise than MAE: queries, keys and values, and the class token.

    Queries, keys and values are Xavier uniform as the three layers that they are, not as one of three times the width.
    """
    for block in encoder.blocks:
        weight = block.get_submodule("attn.qkv").get_parameter("weight")
        bound = math.sqrt(6.0 / (weight.shape[0] // 3 + weight.shape[1]))
        weight.uniform_(-bound, bound)
    if encoder.cls_token is not None:
        encoder.cls_token.normal_(std=CLS_INIT_STD)


class MocoV3(nn.Module):
    """An encoder with a projector and a predictor, and a slow copy of the first two that gives the keys.

    The code of a picture is made from its class token. The projector has three layers, the predictor two; both end in
    a batch norm without scale and shift, as published for vision transformers. Positions are fixed, and so is a patch
    embedding, at the values that it has (random ones, from scratch): the paper's remedy for instability.

    Differs: the published positions encode the row in their first half, MAE's and ours the column; before random
    weights the two are the same up to the order of channels.

    Args:
        encoder: the encoder to pre-train; has a class token. A convolutional stem is trained.
        mlp_dim: width of the hidden layers of both heads.
        out_dim: width of the code.
        freeze_patch_embed: whether the patch embedding keeps its values.

    Raises:
        ConfigError: the encoder has no class token.
    """

    def __init__(
        self, encoder: VisionTransformer, mlp_dim: int = 4096, out_dim: int = 256, *, freeze_patch_embed: bool = True
    ) -> None:
        super().__init__()
        if not encoder.config.class_token:
            raise ConfigError("MoCo v3 contrasts class tokens: the encoder needs class_token = true")
        self.encoder = encoder
        self.encoder.pos_embed.requires_grad_(False)
        if freeze_patch_embed and not isinstance(encoder.patch_embed, ConvStem):
            self.encoder.patch_embed.requires_grad_(False)
        dim = encoder.config.embed_dim
        self.projector = mlp_head(3, dim, mlp_dim, out_dim, last_norm=True)
        self.predictor = mlp_head(2, out_dim, mlp_dim, out_dim, last_norm=True)
        self.momentum_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.momentum_projector = copy.deepcopy(self.projector).requires_grad_(False)

    @torch.no_grad()
    def update_momentum(self, momentum: float) -> None:
        """Move the slow copy towards the encoder and the projector: `momentum` x its own + the rest of theirs.

        Parameters only: the batch norms' running statistics are its own, as in the published code.
        """
        slow = [*self.momentum_encoder.parameters(), *self.momentum_projector.parameters()]
        fast = [*self.encoder.parameters(), *self.projector.parameters()]
        for own, theirs in zip(slow, fast, strict=True):
            own.lerp_(theirs, 1.0 - momentum)

    def forward(
        self, first: Tensor, second: Tensor, momentum: float | None
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Make queries, move the slow copy, and make keys, in this order.

        Args:
            first: float, (B, in_chans, img_size, img_size), one view of B pictures, normalised; B at least 2.
            second: another view of the same pictures.
            momentum: share of the slow copy that stays; None leaves it as it is.

        Returns:
            queries: of the first and of the second view, float32 also under autocast, (B, out_dim), rows of length 1.
            keys: the same from the slow copy, without gradient.
        """
        queries = tuple(self.predictor(self.projector(_class_token(self.encoder, view))) for view in (first, second))
        if momentum is not None:
            self.update_momentum(momentum)
        with torch.no_grad():
            keys = tuple(self.momentum_projector(_class_token(self.momentum_encoder, x)) for x in (first, second))
        return (_unit(queries[0]), _unit(queries[1])), (_unit(keys[0]), _unit(keys[1]))


def _class_token(encoder: VisionTransformer, images: Tensor) -> Tensor:
    return encoder.forward_features(images)[:, 0]


def _unit(codes: Tensor) -> Tensor:
    return F.normalize(codes.float(), dim=-1)
