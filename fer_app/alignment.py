"""Cutting faces out upright, in one size and position: a similarity transform of five landmarks to a template.

Coordinates are continuous: pixel k of a row covers k to k + 1, so a picture spans 0 to its width, and a crop's unit
square 0 to 1. Source of the fit: Umeyama 1991 (IEEE TPAMI 13(4)), equations 40-42; in the plane it is one complex
division.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from fer_app.errors import InputError

# A face that is wider than this is sampled more sparsely than once per pixel, which bounds memory (50 MB).
MAX_SAMPLED_SIDE_PX = 4096
# Cosine between landmarks and fitted template, both centred: 1 for the same shape, 0.75 for a full profile. Below this
# the fit says nothing (it would blow the face up a hundred times); points in one place have 0.
LEAST_FIT = 0.01

UInt8 = npt.NDArray[np.uint8]
Float64 = npt.NDArray[np.float64]

# Where the landmarks (order of `fer_app.results.LANDMARKS`) lie in the unit square of a crop.
# "fer48-v1" is where they lie in FERPlus's own 48 x 48 crops, so that a served face looks like a training face;
# measured with `python -m training.measure_template`, see docs/alignment.md.
TEMPLATES: dict[str, Float64] = {
    "fer48-v1": np.array(
        [
            [0.693, 0.383],
            [0.307, 0.383],
            [0.500, 0.601],
            [0.661, 0.788],
            [0.339, 0.788],
        ]
    ),
}


def alignable(landmarks: npt.NDArray[np.floating], crop: str) -> npt.NDArray[np.bool_]:
    """Tell which faces `align_faces` takes.

    Args:
        landmarks: float, (N, 5, 2), x y in px of the picture.
        crop: a name in `TEMPLATES`.

    Returns:
        bool, (N,), False where landmarks are not finite, coincide, or have nothing of the template's shape.

    Raises:
        InputError: no such template.
    """
    source = np.asarray(landmarks, np.float64)
    # A face that is not finite counts as one whose points coincide.
    source = np.where(np.isfinite(source).all(axis=(1, 2), keepdims=True), source, 0)
    _, fit = _turn_and_fit(source, template_named(crop))
    return np.asarray(fit >= LEAST_FIT, np.bool_)


def template_named(crop: str) -> Float64:
    """Return a template of `TEMPLATES`.

    Raises:
        InputError: there is none of this name.
    """
    if crop not in TEMPLATES:
        raise InputError(f"no such crop geometry: {crop!r}; known are {', '.join(TEMPLATES)}")
    return TEMPLATES[crop]


def similarity_transforms(landmarks: npt.NDArray[np.floating], template: Float64) -> Float64:
    """Least-squares rotation, uniform scale and shift from each face's landmarks to the template; never a reflection.

    Args:
        landmarks: float, (N, P, 2), x y in px of the picture.
        template: float64, (P, 2), x y in px of the crop.

    Returns:
        float64, (N, 2, 3), matrices from the picture's to the crop's coordinates.

    Raises:
        InputError: landmarks that are not finite, coincide, or have nothing of the template's shape.
    """
    source = np.asarray(landmarks, np.float64)
    if not np.isfinite(source).all():
        raise InputError("a face has landmarks that are not finite")
    source_mean, target_mean = source.mean(axis=1), template.mean(axis=0)
    turn, fit = _turn_and_fit(source, template)
    if (fit < LEAST_FIT).any():
        raise InputError("the landmarks of a face lie on one point, or so that no transform to the template fits them")
    linear = np.stack([turn.real, -turn.imag, turn.imag, turn.real], axis=1).reshape(-1, 2, 2)
    shift = target_mean - np.einsum("nij,nj->ni", linear, source_mean)
    return np.concatenate([linear, shift[:, :, None]], axis=2)


def _turn_and_fit(source: Float64, template: Float64) -> tuple[npt.NDArray[np.complex128], Float64]:
    """Return rotation and scale as one complex number a face, (N,), and how well the shapes agree, (N,), 0..1."""
    centred = source - source.mean(axis=1, keepdims=True)
    z = centred @ np.array([1, 1j])
    w = (template - template.mean(axis=0)) @ np.array([1, 1j])
    spread, target_spread = (np.square(np.abs(points)).sum(axis=-1) for points in (z, w))
    agreement = (z.conj() * w).sum(axis=1)
    apart = spread > np.finfo(np.float64).tiny
    turn = np.divide(agreement, spread, out=np.zeros_like(agreement), where=apart)
    return turn, np.abs(turn) * np.sqrt(spread / target_spread)


def align_faces(image: UInt8, landmarks: npt.NDArray[np.floating], *, img_size: int, crop: str) -> UInt8:
    """Cut every face out of a picture, turned upright and scaled to the template.

    Sampling is bilinear. A face larger than its crop is sampled at an integer multiple of the crop's resolution, once
    or more per source pixel (up to `MAX_SAMPLED_SIDE_PX` across), and averaged, so that nothing aliases. Beyond the
    picture's edge its outermost pixels are repeated.

    Args:
        image: uint8, (H, W, 3), RGB.
        landmarks: float, (N, 5, 2), x y in px of the picture, in the order of `fer_app.results.LANDMARKS`.
        img_size: side of the crops in px.
        crop: a name in `TEMPLATES`.

    Returns:
        uint8, (N, img_size, img_size, 3), RGB.

    Raises:
        InputError: no such template, or landmarks that no transform fits.
    """
    transforms = similarity_transforms(landmarks, template_named(crop) * img_size)
    crops = np.empty((len(transforms), img_size, img_size, 3), np.uint8)
    for i, transform in enumerate(transforms):
        crops[i] = _cut(image, transform, img_size)
    return crops


def _cut(image: UInt8, transform: Float64, img_size: int) -> UInt8:
    linear, shift = transform[:, :2], transform[:, 2]
    back = np.linalg.inv(linear)
    # Only the part of the picture under the crop, with one pixel around for the interpolation: OpenCV refuses sources
    # beyond 32,767 px, and a panorama need not be touched for one face.
    square = np.array([[0, 0], [img_size, 0], [0, img_size], [img_size, img_size]])
    corners = (square - shift) @ back.T
    extent = np.array([image.shape[1], image.shape[0]])
    low = np.clip(np.floor(corners.min(axis=0)).astype(np.intp) - 1, 0, extent - 1)
    high = np.clip(np.ceil(corners.max(axis=0)).astype(np.intp) + 1, low + 1, extent)
    part = np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])

    # The hundredth keeps an exact factor of 3 from becoming 4 by rounding.
    samples = int(np.clip(np.ceil(np.sqrt(np.linalg.det(back)) - 0.01), 1, max(1, MAX_SAMPLED_SIDE_PX // img_size)))
    side = img_size * samples
    # From the index of a sample to the index of a source pixel; the halves are the centres of pixels.
    matrix = np.empty((2, 3))
    matrix[:, :2] = back / samples
    matrix[:, 2] = back @ (0.5 / samples - shift) - 0.5 - low
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fine = cv2.warpAffine(part, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    if samples > 1:
        fine = cv2.resize(fine, (img_size, img_size), interpolation=cv2.INTER_AREA)
    return np.asarray(fine, np.uint8)
