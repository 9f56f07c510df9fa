"""Float32 ONNX files that keep their weights in 16 bits, where nothing is lost by it.

A checkpoint in 16 bits becomes a float32 network whose weights are 16-bit numbers, or, where the exporter has folded a
batch norm into a kernel, such numbers times a factor a channel. Kept as that, the file has half the size. It computes
the same: ONNX Runtime folds the casts and products once, when it opens the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor

_SMALLEST: Final = 256  # numbers; the nodes that a smaller tensor needs are as large as what it saves
_TOLERANCE: Final = 1e-6  # of the largest weight: products of float32 numbers, rounded in another order


def keep_in_16_bits(file: Path, weights: Mapping[str, Tensor]) -> int:
    """Rewrite a float32 network of `export.onnx_export`.

    Args:
        file: is overwritten.
        weights: the checkpoint's state dict, whose numbers 16 bits can hold; others stay in 32.

    Returns:
        Bytes that the file has lost.
    """
    before = file.stat().st_size
    proto = onnx.load(file)
    nodes: list[onnx.NodeProto] = []
    kept: list[onnx.TensorProto] = []
    for initializer in proto.graph.initializer:
        values = numpy_helper.to_array(initializer)
        parts = None
        if values.dtype == np.float32 and values.size >= _SMALLEST:
            parts = _parts(values, weights.get(initializer.name.removeprefix("model.")))
        if parts is None:
            kept.append(initializer)
            continue
        half, factor = parts
        name = initializer.name
        kept.append(numpy_helper.from_array(half, f"{name}.half"))
        cast_to = name if factor is None else f"{name}.unscaled"
        nodes.append(helper.make_node("Cast", [f"{name}.half"], [cast_to], to=onnx.TensorProto.FLOAT))
        if factor is not None:
            kept.append(numpy_helper.from_array(factor, f"{name}.factor"))
            nodes.append(helper.make_node("Mul", [cast_to, f"{name}.factor"], [name]))
    nodes += proto.graph.node
    for field, entries in ((proto.graph.initializer, kept), (proto.graph.node, nodes)):
        del field[:]
        field.extend(entries)
    onnx.checker.check_model(proto, full_check=True)
    file.write_bytes(proto.SerializeToString())
    return before - file.stat().st_size


def _parts(
    values: NDArray[np.float32], trained: Tensor | None
) -> tuple[NDArray[np.float16], NDArray[np.float32] | None] | None:
    """Return a tensor as 16-bit numbers, and what to multiply each row of them by; None where that is not exact."""
    if (half := _exact(values)) is not None:
        return half, None
    if trained is None or tuple(trained.shape) != values.shape or (half := _exact(trained.numpy())) is None:
        return None
    rows, folded = (array.reshape(len(array), -1).astype(np.float64) for array in (half, values))
    norms = (rows**2).sum(axis=1)
    factor = np.divide((rows * folded).sum(axis=1), norms, out=np.zeros(len(rows)), where=norms > 0)
    factor = factor.astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    if np.abs(half.astype(np.float32) * factor - values).max() > _TOLERANCE * np.abs(values).max():
        return None
    return half, factor


def _exact(values: NDArray[np.float32]) -> NDArray[np.float16] | None:
    """Return the same numbers in 16 bits; None where one is not among them."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else None
