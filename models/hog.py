"""Masked pre-training that predicts histograms of oriented gradients (HOG) instead of pixels.

What is predicted is MaskFeat's (Wei et al. 2022, arXiv:2112.09133); encoder and decoder are MAE's, as in PLL-FER (Wang,
Sebe and Lepri 2022, arXiv:2209.15402, section 3.2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_app.errors import ConfigError
from models.mae import MaskedAutoencoder
from models.vit import VisionTransformer, init_transformer_weights

BINS = 9
_EPS = 1e-12


@torch.no_grad()
def hog(images: Tensor, cell_px: int = 8, gaussian_window: int = 0) -> Tensor:
    """Describe every cell of every channel by its histogram of gradient orientations, of length 1.

    Gradients are Sobel's, at the border of the mirrored picture. Their orientation, without a sign, falls in one of
    nine bins of 20 degrees, in which their magnitudes are summed over a cell. There is no normalisation over blocks.

    Args:
        images: float, (B, C, H, W), H and W multiples of `cell_px`; computed with as float32.
        cell_px: side of a cell.
        gaussian_window: side of the window, in px, whose Gaussian (deviation half its side) weighs the magnitudes; it
            is tiled over the picture. 0 is none, as in MaskFeat's own code.

    Returns:
        float32, (B, C, 9, H / cell_px, W / cell_px); zeros where a cell has no gradient.

    Raises:
        ValueError: the picture is no whole number of cells, or of windows.
    """
    height, width = images.shape[-2:]
    for side, what in ((cell_px, "cells"), (gaussian_window or 1, "windows")):
        if height % side or width % side:
            raise ValueError(f"a picture of {height} x {width} px is no whole number of {what} of {side} px")
    dx, dy = _sobel(images.float())
    magnitude = (dx.square() + dy.square()).sqrt()
    if gaussian_window:
        tile = _gaussian(gaussian_window).to(images.device)
        magnitude = magnitude * tile.repeat(height // gaussian_window, width // gaussian_window)
    # The angle is from the y axis, since x comes first; half a turn is nine bins, and the other half is the same.
    bins = (torch.atan2(dx, dy) / math.pi * BINS).floor().remainder(BINS)
    cells = (*images.shape[:2], height // cell_px, cell_px, width // cell_px, cell_px)
    # Bin after bin: sums by index would take as little memory, but on a GPU add up in an order of chance.
    sums = [magnitude.where(bins == k, 0.0).reshape(cells).sum(dim=(3, 5)) for k in range(BINS)]
    return F.normalize(torch.stack(sums, dim=2), dim=2, eps=_EPS)


def hog_targets(images: Tensor, patch_size: int, cell_px: int = 8, gaussian_window: int = 0) -> Tensor:
    """Return the HOG of every patch.

    Args:
        images: float, (B, C, H, W), as the encoder sees them, normalised.
        patch_size: side of a patch in px, a multiple of `cell_px`.
        cell_px: see `hog`.
        gaussian_window: see `hog`.

    Returns:
        float32, (B, N, C * 9 * q * q) with q = patch_size / cell_px; within a patch channel, bin, row and column of the
        cell, the column fastest.
    """
    cells = hog(images, cell_px, gaussian_window).flatten(1, 2)
    batch, values, rows, columns = cells.shape
    q = patch_size // cell_px
    patches = cells.reshape(batch, values, rows // q, q, columns // q, q).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, (rows // q) * (columns // q), values * q * q)


class HogAutoencoder(MaskedAutoencoder):
    """A masked autoencoder that predicts the HOG of the removed patches; the loss is their mean squared error.

    Differs: MaskFeat puts mask tokens into the encoder and has no decoder; here the encoder sees only what is left, as
    PLL-FER describes. Its decoder's size is not printed: MAE's is the default.

    Args:
        encoder: the encoder to pre-train, with a patch stem; its position embedding is frozen.
        decoder_embed_dim: width of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_num_heads: attention heads of the decoder.
        mask_ratio: share of patches to remove.
        cell_px: see `hog`.
        gaussian_window: see `hog`.

    Raises:
        ConfigError: patches are no whole number of cells, the picture is none of windows, or as `MaskedAutoencoder`.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mask_ratio: float = 0.4,
        cell_px: int = 8,
        gaussian_window: int = 0,
    ) -> None:
        config = encoder.config
        if config.patch_size % cell_px:
            raise ConfigError(f"patches of {config.patch_size} px are no whole number of HOG cells of {cell_px} px")
        if gaussian_window and config.img_size % gaussian_window:
            raise ConfigError(f"{config.img_size} px are no whole number of HOG windows of {gaussian_window} px")
        super().__init__(
            encoder, decoder_embed_dim, decoder_depth, decoder_num_heads, mask_ratio=mask_ratio, norm_pix_loss=False
        )
        self.cell_px, self.gaussian_window = cell_px, gaussian_window
        values = config.in_chans * BINS * (config.patch_size // cell_px) ** 2
        self.decoder_pred = nn.Linear(decoder_embed_dim, values)
        self.decoder_pred.apply(init_transformer_weights)

    def target(self, images: Tensor) -> Tensor:
        """Return what is to be predicted: float32, (B, N, C * 9 * q * q), see `hog_targets`."""
        return hog_targets(images, self.encoder.config.patch_size, self.cell_px, self.gaussian_window)


def _sobel(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the differences left minus right and above minus below, each smoothed along the other axis.

    Written out: autocast leaves sums in float32, and a convolution would be none.
    """
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    down = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    across = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return down[..., :-2] - down[..., 2:], across[:, :, :-2] - across[:, :, 2:]


def _gaussian(side: int) -> Tensor:
    """Return a Gaussian of deviation side / 2 that sums to 1, (side, side)."""
    place = torch.arange(side) - (side - 1) / 2
    profile = (-0.5 * (place / (side / 2)) ** 2).exp()
    window = profile[:, None] * profile
    return window / window.sum()
