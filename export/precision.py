"""The same network in another arithmetic: 16-bit floats, or 8-bit integers calibrated on faces."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
from onnxruntime.quantization import quantize_dynamic as _quantize_dynamic
from onnxruntime.quantization import quantize_static as _quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from fer_app.classifier import INPUT_NAME
from fer_app.contract import METADATA_KEY, Contract
from fer_app.errors import ExportError

Calibration = Literal["minmax", "entropy", "percentile"]
CALIBRATIONS: Final[tuple[Calibration, ...]] = get_args(Calibration)
_METHOD_OF = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
# Of each tensor's values so many lie inside the range that 8 bits cover.
_PERCENTILE = 99.99
_CALIBRATION_BATCH = 32
# Sums over many values, and powers: half precision loses too much there.
_KEPT_IN_FLOAT32 = [*DEFAULT_OP_BLOCK_LIST, "LayerNormalization", "ReduceMean", "Softmax"]
# Where the arithmetic is. Softmax, LayerNorm, GELU and what lies between stay in float32.
_HEAVY = ["Conv", "Gemm", "MatMul"]


def to_fp16(source: Path, target: Path) -> None:
    """Write a network with 16-bit weights and arithmetic; its input and output stay float32.

    Args:
        source: a float32 ONNX file.
        target: what to write, with the metadata of `source`.

    Raises:
        ExportError: ONNX Runtime's converter failed.
    """
    with _quietly("fp16"):
        converted = convert_float_to_float16(onnx.load(source), keep_io_types=True, op_block_list=_KEPT_IN_FLOAT32)
        _drop_repeated_casts(converted)
        OnnxModel(converted).topological_sort()  # the converter appends its casts at the end
    target.write_bytes(converted.SerializeToString())


def to_dynamic_int8(source: Path, target: Path) -> None:
    """Write a network whose products with weights are 8-bit; activations are scaled anew in every run.

    Convolutions stay in float32: ONNX Runtime's dynamic 8-bit ones are slower than those.

    Args:
        source: a float32 ONNX file.
        target: what to write, without metadata.

    Raises:
        ExportError: ONNX Runtime's quantiser failed.
    """
    with _quietly("int8"):
        _quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["Gemm", "MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )


def to_static_int8(
    source: Path, target: Path, images: NDArray[np.float32], calibration: Calibration, *, symmetric: bool = False
) -> None:
    """Write a network whose convolutions and products with weights are 8-bit, scaled by what calibration saw.

    Weights are signed with a scale a channel, activations unsigned. Weights have seven bits: processors without VNNI
    add pairs of products in 16 bits, which eight would overflow, so that figures measured on one processor would not
    hold on another.

    Args:
        source: a float32 ONNX file.
        target: what to write, without metadata.
        images: float32, (N, C, H, W), normalised, typical ones.
        calibration: how ranges are taken from them.
        symmetric: whether activations are signed and around zero, weights have all eight bits, and biases stay in
            float32, as TensorRT has it.

    Raises:
        ExportError: ONNX Runtime's quantiser failed.
    """
    signed = {"ActivationSymmetric": True, "AddQDQPairToWeight": True, "QuantizeBias": False} if symmetric else {}
    with _quietly("int8"), tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        _quantize_static(
            prepared,
            target,
            _Batches(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_HEAVY,
            per_channel=True,
            reduce_range=not symmetric,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=_METHOD_OF[calibration],
            # Products of two activations, in attention, stay in float32.
            extra_options={"MatMulConstBOnly": True, "CalibPercentile": _PERCENTILE, **signed},
        )


def write_contract(path: Path, contract: Contract) -> None:
    """Put a contract into an ONNX file in the place of any other."""
    model = onnx.load(path, load_external_data=False)  # weights that lie beside it stay there
    onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    path.write_bytes(model.SerializeToString())


def _drop_repeated_casts(model: onnx.ModelProto) -> None:
    """Keep one of the casts of a tensor: the converter adds one a node that is kept in float32, all of one name."""
    made: set[str] = set()
    kept = []
    for node in model.graph.node:
        if node.op_type == "Cast" and node.output[0] in made:
            continue
        made.update(node.output)
        kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
    """Gives the quantiser the pictures in batches of one size, which it needs; what is left over is left out."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        batch = min(_CALIBRATION_BATCH, len(images))
        starts = range(0, len(images) - batch + 1, batch)
        self._batches: Iterator[NDArray[np.float32]] = iter([images[i : i + batch] for i in starts])

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT_NAME: batch}


@contextlib.contextmanager
def _quietly(what: str) -> Iterator[None]:
    """Keep the tools' chatter off stdout and the log, and turn whatever they raise into an error of ours."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        kind = type(error).__name__
        raise ExportError(f"ONNX Runtime could not convert the model to {what}: {kind}: {error}") from error
    finally:
        logging.disable(level)
