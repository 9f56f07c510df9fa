"""Where each output pixel of an augmented picture comes from: one affine map a sample, sampled once.

Coordinates are `torch.nn.functional.affine_grid`'s with `align_corners=False`: -1 and 1 are the outer edges of the
picture, x to the right, y down. A map sends a point of the output to the point of the stored picture that it shows, so
maps compose from the output inwards and the picture is interpolated only once.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate

Padding = Literal["reflection", "border", "zeros"]
Interpolation = Literal["bilinear", "bicubic"]


def _maps(rows: list[list[torch.Tensor | float]], like: torch.Tensor) -> torch.Tensor:
    """Stack two rows of per-sample entries into (B, 3, 3) maps."""
    filled = [torch.as_tensor(entry, dtype=like.dtype, device=like.device).expand_as(like) for r in rows for entry in r]
    last = [torch.zeros_like(like), torch.zeros_like(like), torch.ones_like(like)]
    return torch.stack(filled + last, dim=1).reshape(-1, 3, 3)


def rotation_map(angle_deg: torch.Tensor) -> torch.Tensor:
    """Turn the picture counter-clockwise about its centre. angle_deg: (B,). Returns (B, 3, 3)."""
    angle = angle_deg * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    return _maps([[cos, -sin, 0.0], [sin, cos, 0.0]], angle)


def zoom_map(factor: torch.Tensor) -> torch.Tensor:
    """Enlarge the picture about its centre by `factor`, (B,). Returns (B, 3, 3)."""
    return _maps([[1 / factor, 0.0, 0.0], [0.0, 1 / factor, 0.0]], factor)


def shear_map(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Skew the picture: `x` is the tangent of the vertical edges' lean, `y` of the horizontal ones'; both (B,)."""
    return _maps([[1.0, x, 0.0], [y, 1.0, 0.0]], x)


def shift_map(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Move the picture right by `x` and down by `y`, (B,) in sides of the picture. Returns (B, 3, 3)."""
    return _maps([[1.0, 0.0, -2 * x], [0.0, 1.0, -2 * y]], x)


def flip_map(flipped: torch.Tensor) -> torch.Tensor:
    """Mirror left and right where `flipped`, bool (B,). Returns (B, 3, 3)."""
    sign = 1.0 - 2.0 * flipped.float()
    return _maps([[sign, 0.0, 0.0], [0.0, 1.0, 0.0]], sign)


def crop_map(area: torch.Tensor, ratio: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Show only a window of the picture.

    Args:
        area: share of the picture's area, (B,).
        ratio: the window's width over its height, (B,). A window longer than the picture is cut to it.
        x: position between the leftmost (0) and the rightmost (1) place, (B,).
        y: the same between top and bottom.

    Returns:
        (B, 3, 3).
    """
    width = (area * ratio).sqrt().clamp(max=1.0)
    height = (area / ratio).sqrt().clamp(max=1.0)
    return _maps([[width, 0.0, (1 - width) * (2 * x - 1)], [0.0, height, (1 - height) * (2 * y - 1)]], width)


def sample(
    pictures: torch.Tensor, maps: torch.Tensor, img_size: int, padding: Padding, interpolation: Interpolation
) -> torch.Tensor:
    """Draw each picture through its map.

    Where the stored picture is larger than the output, several points are taken a pixel and averaged, because one
    point a pixel would alias.

    Args:
        pictures: float32, (B, C, S, S).
        maps: float32, (B, 3, 3), output to picture.
        img_size: side of the output in px.
        padding: what lies outside of the picture.
        interpolation: between the picture's pixels.

    Returns:
        float32, (B, C, img_size, img_size).
    """
    fine = math.ceil(pictures.shape[-1] / img_size)
    size = [pictures.shape[0], pictures.shape[1], fine * img_size, fine * img_size]
    grid = affine_grid(maps[:, :2], size, align_corners=False)
    drawn = grid_sample(pictures, grid, mode=interpolation, padding_mode=padding, align_corners=False)
    return avg_pool2d(drawn, fine) if fine > 1 else drawn


def resize(pictures: torch.Tensor, img_size: int, interpolation: Interpolation) -> torch.Tensor:
    """Resize squares as `fer_app.preprocess.to_input` does: averaged over areas when shrinking, else interpolated.

    Args:
        pictures: float32, (B, C, S, S).
        img_size: side of the output in px.
        interpolation: for growing.

    Returns:
        float32, (B, C, img_size, img_size).
    """
    stored = pictures.shape[-1]
    if stored == img_size:
        return pictures
    if stored < img_size:
        return interpolate(pictures, size=(img_size, img_size), mode=interpolation, align_corners=False)
    weights = area_weights(stored, img_size, pictures.device)
    return weights @ pictures @ weights.T


def area_weights(size: int, smaller: int, device: torch.device) -> torch.Tensor:
    """Rows that average `size` pixels into `smaller`, each by the length that it shares with the larger pixel.

    Returns:
        float32, (smaller, size), rows sum to 1. The same as OpenCV's INTER_AREA along one axis.
    """
    step = size / smaller
    starts = torch.arange(smaller, dtype=torch.float64, device=device)[:, None] * step
    pixels = torch.arange(size, dtype=torch.float64, device=device)[None]
    shared = (torch.minimum(starts + step, pixels + 1) - torch.maximum(starts, pixels)).clamp(min=0)
    return (shared / step).float()
