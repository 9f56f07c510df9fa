"""Masked pre-training against a contrastive teacher, after MimCo (Zhou et al. 2022, arXiv:2209.03063)."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_app.errors import ConfigError
from models.moco_v3 import mlp_head
from models.vit import INIT_STD, VisionTransformer, init_transformer_weights

HeadKind = Literal["linear", "mlp"]
ImagePool = Literal["token", "avg"]


class MimCoCodes(NamedTuple):
    """What the losses compare; all float32 with rows of length 1, those of a loss that is off are None.

    Attributes:
        patches: the student's code of every patch, (B, N, D_t).
        patch_targets: the teacher's, without gradient.
        pictures: the student's code of every picture, (B, D_t).
        picture_targets: the teacher's, without gradient.
    """

    patches: Tensor | None
    patch_targets: Tensor | None
    pictures: Tensor | None
    picture_targets: Tensor | None


class MimCo(nn.Module):
    """A student that sees a picture with masked patches, and a frozen teacher that sees all of it.

    Masked patches are a learnt token that stays in the grid. The student's final tokens go through one head for
    patches and one for the picture, to the teacher's width D_t.

    Args:
        student: the encoder to pre-train, with a patch stem; its position embedding is fixed.
        teacher: gives the targets; is frozen, and always in evaluation mode. Has the student's grid.
        patch_head: whether patches are coded.
        image_head: whether pictures are coded.
        head: `linear`, or `mlp`: three layers with batch norm between them.
        mlp_dim: width of the hidden layers of `mlp`.
        image_pool: what the code of a picture is made from: the class token, or the mean of the patch tokens.

    Raises:
        ConfigError: the two do not fit together, the student has a convolutional stem, or nothing is coded.
    """

    def __init__(
        self,
        student: VisionTransformer,
        teacher: VisionTransformer,
        *,
        patch_head: bool = True,
        image_head: bool = True,
        head: HeadKind = "linear",
        mlp_dim: int = 4096,
        image_pool: ImagePool = "token",
    ) -> None:
        super().__init__()
        _check(student, teacher, image_pool, codes_anything=patch_head or image_head)
        self.encoder = student
        self.encoder.pos_embed.requires_grad_(False)
        self.teacher = teacher.requires_grad_(False).eval()
        self.image_pool = image_pool
        dim, target_dim = student.config.embed_dim, teacher.config.embed_dim
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        nn.init.normal_(self.mask_token, std=INIT_STD)
        self.patch_head = _head(head, dim, mlp_dim, target_dim) if patch_head else None
        self.image_head = _head(head, dim, mlp_dim, target_dim) if image_head else None

    def train(self, mode: bool = True) -> Self:
        """Set the student's mode; the teacher's stays."""
        super().train(mode)
        self.teacher.eval()
        return self

    def encode_masked(self, images: Tensor, mask: Tensor) -> Tensor:
        """Return the student's tokens of masked pictures, class token first.

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.
            mask: bool, (B, N), True where masked: no pixel of these patches is seen.

        Returns:
            (B, 1 + N, D).
        """
        encoder = self.encoder
        tokens = encoder.embed(images)
        masked = self.mask_token.to(tokens.dtype) + encoder.pos_embed[:, encoder.num_prefix_tokens :]
        return encoder.encode(torch.where(mask[..., None], masked.to(tokens.dtype), tokens))

    def forward(self, images: Tensor, mask: Tensor) -> MimCoCodes:
        """Code pictures by the student, which sees them masked, and by the teacher, which sees them whole.

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.
            mask: bool, (B, N), True where masked.
        """
        tokens = self.encode_masked(images, mask)
        with torch.no_grad():
            targets = self.teacher.forward_features(images)
        patches = patch_targets = pictures = picture_targets = None
        if self.patch_head is not None:
            own = tokens[:, self.encoder.num_prefix_tokens :]
            patches = _unit(self.patch_head(own.flatten(0, 1)).unflatten(0, own.shape[:2]))
            patch_targets = _unit(targets[:, self.teacher.num_prefix_tokens :])
        if self.image_head is not None:
            pictures = _unit(self.image_head(self._pooled(self.encoder, tokens)))
            picture_targets = _unit(self._pooled(self.teacher, targets))
        return MimCoCodes(patches, patch_targets, pictures, picture_targets)

    def _pooled(self, encoder: VisionTransformer, tokens: Tensor) -> Tensor:
        return tokens[:, 0] if self.image_pool == "token" else tokens[:, encoder.num_prefix_tokens :].mean(dim=1)


def _head(kind: HeadKind, dim: int, mlp_dim: int, out_dim: int) -> nn.Module:
    if kind == "mlp":
        return mlp_head(3, dim, mlp_dim, out_dim, last_norm=False)
    linear = nn.Linear(dim, out_dim)
    init_transformer_weights(linear)
    return linear


def _check(
    student: VisionTransformer, teacher: VisionTransformer, image_pool: ImagePool, *, codes_anything: bool
) -> None:
    own, theirs = student.config, teacher.config
    if own.stem != "patch":
        raise ConfigError("masked patches need stem = 'patch': the fields of a convolutional stem overlap")
    if own.grid_size != theirs.grid_size or (own.img_size, own.in_chans) != (theirs.img_size, theirs.in_chans):
        raise ConfigError(
            f"the teacher sees {theirs.img_size} px with {theirs.in_chans} channels in {theirs.num_patches} patches, "
            f"the student {own.img_size} px with {own.in_chans} in {own.num_patches}: they must agree"
        )
    if image_pool == "token" and not (own.class_token and theirs.class_token):
        raise ConfigError("image_pool = 'token' needs a class token in student and teacher")
    if not codes_anything:
        raise ConfigError("neither patches nor pictures are compared with the teacher's: turn one loss on")


def _unit(codes: Tensor) -> Tensor:
    return F.normalize(codes.float(), dim=-1)
