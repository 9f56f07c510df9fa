"""From face crops to the network's input, and from its logits to probabilities.

The one implementation: serving calls it for every face, and training's evaluation calls it for every picture of a data
set, so that a reported accuracy is the accuracy of what is served.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from fer_app.contract import Contract
from fer_app.errors import InputError

_UPSCALING = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def to_input(
    crops: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
    contract: Contract,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Prepare crops for a classifier: colour mode, size, normalisation.

    The colour mode comes first, on the 8-bit values, so that a grey picture and its copy in three equal channels give
    identical inputs. Sizes change in float32, each axis by itself: an axis that shrinks is averaged over areas, one
    that grows is interpolated as the contract says. A crop that is not square is squeezed to the square.

    Args:
        crops: uint8, (N, h, w, 3) RGB or (N, h, w) grey; or a sequence of N pictures (h, w, 3) or (h, w) whose
            sizes may differ.
        contract: the classifier's contract.
        out: of the result's shape, to be written to; None makes a new array.

    Returns:
        float32, (N, in_chans, img_size, img_size), normalised with the contract's mean and std; N may be 0.

    Raises:
        InputError: the crops are not uint8, or have another shape.
    """
    if not isinstance(crops, np.ndarray):
        inputs = [to_input(np.asarray(crop)[None], contract) for crop in crops]
        return np.concatenate(inputs, out=out) if inputs else _no_input(contract)
    if crops.dtype != np.uint8 or not (crops.ndim == 3 or (crops.ndim == 4 and crops.shape[3] == 3)):
        raise InputError(f"crops must be uint8 (N, h, w, 3) or (N, h, w), got {crops.dtype} {crops.shape}")
    if len(crops) == 0:
        return _no_input(contract)
    if 0 in crops.shape:
        raise InputError(f"crops without pixels: {crops.shape}")
    planes = _to_color_mode(crops, contract).astype(np.float32)
    if planes.shape[1:3] != (contract.img_size, contract.img_size):
        planes = _resize(planes, contract)
    pixels = planes.transpose(0, 3, 1, 2)
    mean = np.asarray(contract.mean, np.float32).reshape(1, -1, 1, 1)
    std = np.asarray(contract.std, np.float32).reshape(1, -1, 1, 1)
    normalised = (pixels / np.float32(255) - mean) / std
    if out is None:
        return np.ascontiguousarray(normalised)
    out[...] = normalised
    return out


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    """Turn logits into probabilities, softened by a temperature (Guo et al. 2017, arXiv:1706.04599, eq. 9).

    Args:
        logits: float32, (N, K).
        temperature: the contract's; above 1 flattens, below 1 sharpens.

    Returns:
        float32, (N, K); rows sum to 1.
    """
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probs: NDArray[np.float32] = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return probs


def _no_input(contract: Contract) -> NDArray[np.float32]:
    return np.zeros((0, contract.in_chans, contract.img_size, contract.img_size), np.float32)


def _to_color_mode(crops: NDArray[np.uint8], contract: Contract) -> NDArray[np.uint8]:
    """Return uint8 (N, h, w, C); C is 1, or `in_chans` where the channels differ or must be repeated."""
    is_grey = crops.ndim == 3
    if contract.color_mode == "gray" and not is_grey:
        count, height, width, _ = crops.shape
        # One call for all N: OpenCV takes the stack for one tall picture.
        tall = np.ascontiguousarray(crops).reshape(count * height, width, 3)
        crops = np.asarray(cv2.cvtColor(tall, cv2.COLOR_RGB2GRAY), np.uint8).reshape(count, height, width)
        is_grey = True
    if not is_grey:
        return crops
    return np.broadcast_to(crops[..., None], (*crops.shape, contract.in_chans))


def _resize(planes: NDArray[np.float32], contract: Contract) -> NDArray[np.float32]:
    """Scale float32 (N, h, w, C) to the contract's square."""
    size = contract.img_size
    height, width = planes.shape[1:3]
    lesser = (min(width, size), min(height, size))
    resized = np.empty((len(planes), size, size, planes.shape[3]), np.float32)
    for i, plane in enumerate(planes):
        scaled = plane if (width, height) == lesser else cv2.resize(plane, lesser, interpolation=cv2.INTER_AREA)
        if lesser != (size, size):
            scaled = cv2.resize(scaled, (size, size), interpolation=_UPSCALING[contract.interpolation])
        resized[i] = scaled.reshape(size, size, -1)
    return resized
