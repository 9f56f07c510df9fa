"""Pictures of the gradients that a network predicts for masked patches, drawn every few epochs of its pre-training."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.hog import BINS, HogAutoencoder
from models.mae import patchify, unpatchify
from training.reconstruction import MaskedNetwork, Reconstructions, pixels_of, predictions_of

_GLYPH_PX: Final = 12  # side of a cell's drawing


class HogPictures(Reconstructions):
    """Shows the same few pictures under the same masks after every few epochs: a star of edges for each cell.

    A bin's line lies along its edge, at right angles to its gradient, and is as bright as the bin is large. The rows
    are what the network sees, the gradients that it predicts around the visible ones, and those of the original.
    """

    def _rows(self, model: MaskedNetwork, images: Tensor, noise: Tensor) -> dict[str, NDArray[np.uint8]]:
        assert isinstance(model, HogAutoencoder)
        pred, mask = predictions_of(model, images, noise)
        target, hidden = model.target(images), mask[..., None].bool()
        config = model.encoder.config
        patches = patchify(images, config.patch_size)
        masked = unpatchify(patches.masked_fill(hidden, torch.nan), config.patch_size, config.grid_size)
        contract = self._recipe.contract()
        return {
            "masked": pixels_of(masked, contract.mean, contract.std),
            "predicted": glyphs(torch.where(hidden, pred.float(), target), model),
            "original": glyphs(target, model),
        }


def glyphs(patches: Tensor, model: HogAutoencoder) -> NDArray[np.uint8]:
    """Draw HOG as stars of edges.

    Args:
        patches: float, (B, N, C * 9 * q * q), as `models.hog.hog_targets` returns them; channels are averaged.
        model: whose patches and cells they are of.

    Returns:
        uint8, (B, H, W, 1), 12 px a cell.
    """
    config, q = model.encoder.config, model.encoder.config.patch_size // model.cell_px
    rows, columns = config.grid_size
    cells = patches.cpu().reshape(-1, rows, columns, config.in_chans, BINS, q, q).mean(dim=3).clamp(min=0)
    drawn = torch.einsum("brckyx,kij->bryicxj", cells, _lines(_GLYPH_PX))
    pictures = drawn.reshape(len(cells), rows * q * _GLYPH_PX, columns * q * _GLYPH_PX)
    return np.asarray((255 * pictures.clamp(max=1)).round().to(torch.uint8)[..., None].numpy())


def _lines(side: int) -> Tensor:
    """Return one line a bin through the middle of a square: float32, (9, side, side).

    A gradient in the middle of bin k points (k + 1/2) x 20 degrees from the y axis towards the x axis.
    """
    place = torch.arange(side) - (side - 1) / 2
    angles = (torch.arange(BINS) + 0.5) * torch.pi / BINS
    along_gradient = angles.sin()[:, None, None] * place + angles.cos()[:, None, None] * place[:, None]
    inside = (place.square() + place[:, None].square()).sqrt() < side / 2
    return (1 - along_gradient.abs()).clamp(min=0) * inside
