"""SimMIM (Xie et al. 2022, arXiv:2111.09886): pre-training an encoder by predicting the pixels of masked squares."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fer_app.errors import ConfigError
from models.mae import unpatchify
from models.vit import VisionTransformer, init_transformer_weights


def random_block_mask(noise: Tensor, mask_ratio: float, grid_size: tuple[int, int], block: int) -> Tensor:
    """Mask square blocks of a grid: those with the smallest noise.

    Args:
        noise: (B, (height / block) * (width / block)), the randomness itself.
        mask_ratio: share of the blocks to mask, rounded up to whole blocks.
        grid_size: (height, width) of the grid, in patches or in px; multiples of `block`.
        block: side of a block, in the grid's unit.

    Returns:
        bool, (B, height * width), True where masked.

    Raises:
        ConfigError: blocks do not fill the grid, or the ratio masks none of them or all.
    """
    height, width = grid_size
    if height % block or width % block:
        raise ConfigError(f"blocks of {block} x {block} do not fill a grid of {height} x {width}")
    rows, columns = height // block, width // block
    masked = math.ceil(rows * columns * mask_ratio)
    if not 1 <= masked < rows * columns:
        raise ConfigError(f"mask_ratio {mask_ratio} masks {masked} of {rows * columns} blocks; both parts need one")
    rank = noise.argsort(dim=1).argsort(dim=1)
    blocks = (rank < masked).reshape(-1, rows, columns)
    return blocks.repeat_interleave(block, dim=1).repeat_interleave(block, dim=2).flatten(1)


class SimMim(nn.Module):
    """An encoder that sees all of a picture whose masked squares have one colour, and a linear head that paints them.

    Masked pixels are replaced before the stem, so that any stem will do, one of overlapping convolutions too: nothing
    of them is seen. The head turns every token into the pixels of its patch.

    Differs: the paper's code replaces the embeddings of masked patches by a learnt token. Here masked pixels get a
    learnt value per channel, which starts at the mean picture's (0, as pictures are normalised), and a masked square
    need not be a whole number of patches: a hybrid's patches are large. Positions are fixed and absolute, as in MAE,
    not learnt and relative. The batch norms of a convolutional stem learn the statistics of masked pictures;
    fine-tuning moves them on.

    Args:
        encoder: the encoder to pre-train, with any stem; its position embedding is frozen.
        mask_px: side of a masked square; divides the picture's, and divides a patch's or is a multiple of it.
        mask_ratio: share of squares to mask, rounded up.

    Raises:
        ConfigError: squares do not fill the picture or lie across patches, or the ratio masks none of them or all.
    """

    def __init__(self, encoder: VisionTransformer, mask_px: int = 32, mask_ratio: float = 0.6) -> None:
        super().__init__()
        config = encoder.config
        if config.img_size % mask_px:
            raise ConfigError(f"masked squares of {mask_px} px do not fill a picture of {config.img_size} px")
        if config.patch_size % mask_px and mask_px % config.patch_size:
            raise ConfigError(
                f"masked squares of {mask_px} px lie across patches of {config.patch_size} px: "
                "one must be a multiple of the other"
            )
        self.encoder = encoder
        self.encoder.pos_embed.requires_grad_(False)
        self.mask_px, self.mask_ratio = mask_px, mask_ratio
        self.num_squares = (config.img_size // mask_px) ** 2
        self.mask(torch.zeros(1, self.num_squares))  # so that a ratio that does not fit is told now
        self.mask_value = nn.Parameter(torch.zeros(1, config.in_chans, 1, 1))
        self.head = nn.Linear(config.embed_dim, config.patch_size**2 * config.in_chans)
        self.head.apply(init_transformer_weights)

    def mask(self, noise: Tensor) -> Tensor:
        """Return what is masked: bool, (B, 1, img_size, img_size), True where hidden, for noise (B, num_squares)."""
        side = self.encoder.config.img_size
        return random_block_mask(noise, self.mask_ratio, (side, side), self.mask_px).reshape(-1, 1, side, side)

    def hide(self, images: Tensor, mask: Tensor) -> Tensor:
        """Return pictures as the encoder sees them: (B, in_chans, img_size, img_size), `mask_value` where masked."""
        return torch.where(mask, self.mask_value.to(images.dtype), images)

    def paint(self, seen: Tensor) -> Tensor:
        """Predict all pixels of pictures as the encoder sees them: (B, in_chans, img_size, img_size)."""
        config = self.encoder.config
        tokens = self.encoder(seen)[:, self.encoder.num_prefix_tokens :]
        return unpatchify(self.head(tokens), config.patch_size, config.grid_size)

    def forward_loss(self, images: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        """Return the mean absolute error over the masked pixels of all channels, a float32 scalar.

        Args:
            images: (B, in_chans, img_size, img_size), normalised.
            pred: the same shape.
            mask: bool, (B, 1, img_size, img_size), True where masked.
        """
        errors = (pred.float() - images.float()).abs().mean(dim=1, keepdim=True)
        return (errors * mask).sum() / mask.sum()

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Mask, encode, paint and compare.

        Args:
            images: float, (B, in_chans, img_size, img_size), normalised.
            noise: (B, num_squares), the squares with the smallest are masked; drawn uniformly when not given.

        Returns:
            loss: float32 scalar.
            pred: (B, in_chans, img_size, img_size), the painted pictures.
            mask: bool, (B, 1, img_size, img_size), True where masked.
        """
        if noise is None:
            noise = torch.rand(len(images), self.num_squares, device=images.device)
        mask = self.mask(noise)
        pred = self.paint(self.hide(images, mask))
        return self.forward_loss(images, pred, mask), pred, mask
