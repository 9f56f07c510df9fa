"""Two views of every picture, augmented apart, for contrastive pre-training."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from training.augment import BatchAugment

SOLARIZE_FROM: Final = 128 / 255
"""Values from here on are inverted (PIL's `ImageOps.solarize`)."""


class TwoViews:
    """Augments each picture twice, and solarises some of the second views (MoCo v3's asymmetric augmentation).

    Differs from the published order: blur comes before the colours, and mirroring with the crop, as in
    `training.augment`.

    Args:
        first: augments the first view.
        second: augments the second view; has the first one's mean and standard deviation.
        solarize_p: probability of solarising a second view.
    """

    def __init__(self, first: BatchAugment, second: BatchAugment, solarize_p: float) -> None:
        self._first, self._second, self._solarize_p = first, second, solarize_p
        self.n_draws: Final = first.n_draws + second.n_draws + 1

    @torch.no_grad()
    def __call__(self, images: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            images: uint8, (B, C, S, S), C is 1 (gray) or 3 (RGB).
            draws: float32, (B, n_draws), uniform on [0, 1), on the images' device.

        Returns:
            Both views, float32, (B, channels, img_size, img_size), normalised.
        """
        one, two = self._first.n_draws, self._second.n_draws
        first = self._first(images, draws[:, :one])
        second = self._second(images, draws[:, one : one + two])
        if self._solarize_p > 0:
            second = solarize(second, draws[:, -1] < self._solarize_p, self._second.mean, self._second.std)
        return first, second


def solarize(images: Tensor, chosen: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Invert the bright values of some pictures.

    Args:
        images: float32, (B, C, H, W), normalised.
        chosen: bool, (B,), which.
        mean: that they were normalised by, (1, C, 1, 1).
        std: likewise.

    Returns:
        (B, C, H, W), normalised.
    """
    mean, std = mean.to(images.device), std.to(images.device)
    values = images * std + mean
    bright = (values >= SOLARIZE_FROM - 1e-4) & chosen[:, None, None, None]  # the limit itself, after rounding
    return torch.where(bright, (1 - values - mean) / std, images)
