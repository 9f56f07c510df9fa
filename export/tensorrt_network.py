"""The ONNX files that engines are built from: every tensor has the type that it is computed in.

TensorRT's strongly typed networks leave no choice of precision to the builder, so that an engine of a precision is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.precision import Calibration, to_fp16, to_static_int8

_BF16_OPSET: Final = 22
"""The first in which convolutions take bf16."""


def to_bf16(source: Path, target: Path) -> None:
    """Write a network whose weights and arithmetic are bf16 where `to_fp16` takes fp16; input and output stay float32.

    Args:
        source: a float32 ONNX file.
        target: what to write, with the metadata of `source`.

    Raises:
        ExportError: the conversion failed.
    """
    to_fp16(source, target)
    full = {tensor.name: tensor for tensor in onnx.load(source).graph.initializer}
    model = onnx.version_converter.convert_version(onnx.load(target), _BF16_OPSET)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            # From the float32 weight: what fp16 has rounded or cut off is not rounded again.
            tensor.CopyFrom(_as_bf16(numpy_helper.to_array(full.get(tensor.name, tensor)), tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.BFLOAT16
            elif attribute.t.data_type == TensorProto.FLOAT16:
                attribute.t.CopyFrom(_as_bf16(numpy_helper.to_array(attribute.t), attribute.t.name))
    del model.graph.value_info[:]
    onnx.save(model, target)


def to_symmetric_int8(source: Path, target: Path, images: NDArray[np.float32], calibration: Calibration) -> None:
    """Write a network with 8-bit products as TensorRT takes them: signed, around zero, weights with a scale a channel.

    Args:
        source: a float32 ONNX file.
        target: what to write, without metadata.
        images: float32, (N, C, H, W), normalised, typical ones.
        calibration: how ranges are taken from them.

    Raises:
        ExportError: ONNX Runtime's quantiser failed.
    """
    to_static_int8(source, target, images, calibration, symmetric=True)


def _as_bf16(values: NDArray[Any], name: str) -> onnx.TensorProto:
    """Return float values rounded to bf16, to the nearest and to even ones in between."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return helper.make_tensor(name, TensorProto.BFLOAT16, values.shape, rounded.tobytes(), raw=True)
