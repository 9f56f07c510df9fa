"""Mixup (Zhang et al. 2018, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899) of whole batches."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from fer_app.errors import ConfigError


def random_box(height: int, width: int, share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw CutMix's box: the picture's shape, a uniform centre, clipped at the borders.

    Args:
        height: of the picture, in px.
        width: of the picture, in px.
        share: the box's area before clipping as a share of the picture's.
        rng: source of the centre.

    Returns:
        (y0, y1, x0, x1) in px, y1 and x1 exclusive.
    """
    scale = math.sqrt(share)
    box_height, box_width = int(height * scale), int(width * scale)
    center_y, center_x = int(rng.integers(height)), int(rng.integers(width))
    y0, x0 = center_y - box_height // 2, center_x - box_width // 2
    y1, x1 = y0 + box_height, x0 + box_width
    return max(y0, 0), min(y1, height), max(x0, 0), min(x1, width)


class MixUpCutMix:
    """Mix every row of a batch with its mirror row, by Mixup or by CutMix, with one weight for the batch.

    The batch holds V views of B samples, view after view. Row i is mixed with row VB - 1 - i, another view of sample
    B - 1 - (i mod B), so that all views of a sample share one mixed target.

    Args:
        mixup_alpha: Mixup's weight is drawn from Beta(alpha, alpha); 0 turns Mixup off.
        cutmix_alpha: the same for CutMix; 0 turns CutMix off.
        prob: probability that a batch is mixed at all.
        switch_prob: probability of CutMix when both are on.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(self, mixup_alpha: float, cutmix_alpha: float, prob: float = 1.0, switch_prob: float = 0.5) -> None:
        if min(mixup_alpha, cutmix_alpha) < 0.0:
            raise ConfigError(f"mixup_alpha {mixup_alpha} and cutmix_alpha {cutmix_alpha} must not be negative")
        if not (0.0 <= prob <= 1.0 and 0.0 <= switch_prob <= 1.0):
            raise ConfigError(f"prob {prob} and switch_prob {switch_prob} must be in [0, 1]")
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.prob = prob
        self.switch_prob = switch_prob

    def __call__(self, images: Tensor, targets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Mix one batch; the arguments are left as they are.

        Args:
            images: float, (V * B, C, H, W), view after view.
            targets: float, (B, K), distributions, shared by the views.
            rng: the only source of chance.

        Returns:
            images: (V * B, C, H, W).
            targets: (B, K), valid for every view: `lam * y + (1 - lam) * y.flip(0)`.

        Raises:
            ValueError: the number of pictures is no multiple of the number of targets.
        """
        if len(targets) == 0 or len(images) % len(targets):
            raise ValueError(f"{len(images)} pictures are no whole number of views of {len(targets)} targets")
        use_cutmix, alpha = self._draw_kind(rng)
        if alpha == 0.0 or rng.random() >= self.prob:
            return images, targets
        lam = float(rng.beta(alpha, alpha))
        if use_cutmix:
            height, width = images.shape[-2:]
            y0, y1, x0, x1 = random_box(height, width, 1.0 - lam, rng)
            mixed = images.clone()
            mixed[..., y0:y1, x0:x1] = images.flip(0)[..., y0:y1, x0:x1]
            lam = 1.0 - (y1 - y0) * (x1 - x0) / (height * width)  # of the box that clipping left
        else:
            mixed = images.flip(0).lerp_(images, lam)
        return mixed, targets.flip(0).lerp_(targets, lam)

    def _draw_kind(self, rng: np.random.Generator) -> tuple[bool, float]:
        """Choose Mixup or CutMix; returns (whether CutMix, its alpha)."""
        use_cutmix = self.cutmix_alpha > 0.0
        if use_cutmix and self.mixup_alpha > 0.0:
            use_cutmix = bool(rng.random() < self.switch_prob)
        return use_cutmix, self.cutmix_alpha if use_cutmix else self.mixup_alpha
