"""What happens to the values of augmented pictures: resolution, blur, colour, noise, erased boxes.

All functions take batches of float32 (B, C, H, W) and per-sample parameters (B,), and draw nothing at random.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import interpolate

from training.augment_geometry import area_weights

_LUMA = (0.299, 0.587, 0.114)
# Luma and two chroma axes (NTSC's YIQ). Turning the chroma plane changes hue and leaves luma alone.
_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


def luma(images: torch.Tensor) -> torch.Tensor:
    """Return the brightness of (B, C, H, W) as (B, 1, H, W); C is 1 or 3 (RGB)."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(_LUMA, dtype=images.dtype, device=images.device)
    return (images * weights.reshape(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def blur(images: torch.Tensor, sigma_px: torch.Tensor) -> torch.Tensor:
    """Blur with Gaussians of per-sample width.

    As two small matrix products, because a convolution would need one kernel size for all. Weights that fall outside
    of the picture are dropped and the rest rescaled.

    Args:
        images: float32, (B, C, S, S).
        sigma_px: standard deviations in px, above 0, (B,).

    Returns:
        float32, (B, C, S, S).
    """
    position = torch.arange(images.shape[-1], dtype=images.dtype, device=images.device)
    distance = (position[:, None] - position[None])[None] / sigma_px[:, None, None]
    weights = torch.exp(-0.5 * distance**2)
    return _both_axes(weights / weights.sum(dim=2, keepdim=True), images)


def lower_resolution(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Scale down by averaging and up again bilinearly.

    Args:
        images: float32, (B, C, S, S).
        factor: share of the side that is left in between, in (0, 1], (B,); rounded to whole pixels.

    Returns:
        float32, (B, C, S, S).
    """
    side = images.shape[-1]
    sizes = (factor * side).round().long().clamp(1, side).tolist()
    tables = {size: _down_up(side, size, images.device) for size in set(sizes)}
    return _both_axes(torch.stack([tables[size] for size in sizes]), images)


def _down_up(side: int, smaller: int, device: torch.device) -> torch.Tensor:
    """One axis of `lower_resolution` as a matrix, (side, side)."""
    down = area_weights(side, smaller, device)
    return interpolate(down.T[None], size=side, mode="linear", align_corners=False)[0].T


def _both_axes(weights: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Apply (B, S, S) row weights along both axes of (B, C, S, S)."""
    weights = weights[:, None]
    return weights @ images @ weights.transpose(2, 3)


def adjust_brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply images of 0..1 by `factor`, (B,), and clip."""
    return (images * _column(factor)).clamp(0, 1)


def adjust_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Stretch images of 0..1 about their own mean brightness by `factor`, (B,), and clip."""
    centre = luma(images).mean(dim=(1, 2, 3), keepdim=True)
    return (centre + (images - centre) * _column(factor)).clamp(0, 1)


def adjust_gamma(images: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """Raise images of 0..1 to the power of `exponent`, (B,)."""
    return torch.pow(images.clamp(0, 1), _column(exponent))


def adjust_color(images: torch.Tensor, saturation: torch.Tensor, hue: torch.Tensor) -> torch.Tensor:
    """Scale the saturation and turn the hue of RGB images, and clip.

    Differs: torchvision turns hue in HSV; here chroma turns in YIQ, a linear map, so that both are one product a
    picture and the brightness stays. Saturation 0 gives gray.

    Args:
        images: float32, (B, 3, H, W), 0..1.
        saturation: factor, (B,).
        hue: in turns, (B,).

    Returns:
        float32, (B, 3, H, W), 0..1.
    """
    to_yiq = torch.tensor(_YIQ, dtype=torch.float64)
    to_rgb: torch.Tensor = torch.linalg.inv(to_yiq)
    to_yiq, to_rgb = to_yiq.to(images), to_rgb.to(images)
    cos = saturation * (2 * math.pi * hue).cos()
    sin = saturation * (2 * math.pi * hue).sin()
    turn = torch.zeros(len(images), 3, 3, dtype=images.dtype, device=images.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = cos
    turn[:, 1, 2], turn[:, 2, 1] = sin, -sin  # red towards green, as hue is counted in HSV
    mixed = (to_rgb @ turn @ to_yiq) @ images.flatten(2)
    return mixed.reshape(images.shape).clamp(0, 1)


def erase(
    images: torch.Tensor, box: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], fill: torch.Tensor
) -> torch.Tensor:
    """Replace a box of each image.

    Args:
        images: (B, C, H, W).
        box: x0, y0, x1, y1, each (B,), in px; a pixel is inside when its centre is. x0 = x1 erases nothing.
        fill: what to put there, broadcastable to `images`.

    Returns:
        (B, C, H, W).
    """
    x0, y0, x1, y1 = (edge[:, None] for edge in box)
    columns = torch.arange(images.shape[3], device=images.device)[None] + 0.5
    rows = torch.arange(images.shape[2], device=images.device)[None] + 0.5
    inside = ((rows >= y0) & (rows < y1))[:, None, :, None] & ((columns >= x0) & (columns < x1))[:, None, None, :]
    return torch.where(inside, fill, images)


def pixel_noise(seeds: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Noise of mean 0 and standard deviation 1 that is a function of (seed, position).

    Counted, not drawn from a generator: a sample's noise is the same in any batch and on any device. The sum of four
    bytes of an integer hash, which is close to a Gaussian cut at 3.4 standard deviations.

    Args:
        seeds: float32 in [0, 1), (B,).
        shape: C, H, W.

    Returns:
        float32, (B, C, H, W).
    """
    low32 = 0xFFFFFFFF
    start = (seeds.double() * 2**32).long()[:, None]
    position = torch.arange(math.prod(shape), device=seeds.device)[None]
    # Twice a multiply-and-shift round (the constants are those of the "lowbias32" hash), in 64 bits masked to 32.
    state = (start * 0x9E3779B1 + position * 0x85EBCA6B) & low32
    for multiplier, shift in ((0x7FEB352D, 15), (0x846CA68B, 16)):
        state = ((state ^ (state >> 16)) * multiplier) & low32
        state = state ^ (state >> shift)
    total = (state & 0xFF) + ((state >> 8) & 0xFF) + ((state >> 16) & 0xFF) + (state >> 24)
    spread = math.sqrt(4 * (256**2 - 1) / 12)
    return ((total - 510).float() / spread).reshape(-1, *shape)


def _column(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]
