"""How much arithmetic a network is, counted from runs of it.

ONNX Runtime's trace of a run names every node with the shapes that went in and came out. Only products are counted
(convolutions are products too), 2 operations a multiplication and addition; norms, softmax and activations are not, as
usual. A node that is not known to be without products makes the count unknown.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fer_app.errors import ModelError
from fer_app.session import Device, Session, runtime

Shapes = list[list[int]]
# From the shapes of inputs and outputs to operations.
Count = Callable[[Shapes, Shapes], int]

# Operators that only move, compare, add, scale, normalise or round values.
_LIGHT = """
Abs Add And ArgMax ArgMin AveragePool BatchNormalization BiasGelu Cast Ceil Clip Concat Constant ConstantOfShape
Cos DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Equal Erf Exp Expand FastGelu Flatten Floor Gather
GatherElements GatherND Gelu GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization
HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log
LogSoftmax LpNormalization Max MaxPool Mean Min Mod Mul Neg Not Or PRelu Pad Pow QuantizeLinear QuickGelu Range
Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
Round Shape Sigmoid Sign SimplifiedLayerNormalization Sin Size SkipLayerNormalization Slice Softmax Softplus
Split Sqrt Squeeze Sub Sum Swish Tanh Tile TopK Transpose Trilu Unsqueeze Where
"""


class Node(NamedTuple):
    """A node that ran: its operator, and the shapes of its inputs and outputs."""

    operator: str
    given: Shapes
    made: Shapes


class Operations(NamedTuple):
    """What was counted.

    Attributes:
        flop: operations of one image; None when unknown.
        int8: how many of them ONNX Runtime does in 8 bits on a CPU.
        unknown: the operators that stand in the way, or the reason why there is no count.
    """

    flop: int | None
    int8: int = 0
    unknown: str = ""


def count_operations(model: Path) -> Operations:
    """Run a classifier on one black image, on the CPU, and count.

    Args:
        model: an ONNX file with one input, whose first axis is free.
    """
    try:
        # Merged nodes would hide what they are made of, so all is counted in the graph as the file has it. What is
        # meant to be done in 8 bits may be written there as float32 between two roundings: only merging shows that.
        flop, unknown = _sum(_trace(model, optimised=False), _PRODUCTS)
        int8, _ = _sum(_trace(model, optimised=True), {name: _PRODUCTS[name] for name in _INT8})
    except ModelError as error:
        return Operations(None, unknown=str(error))
    if unknown:
        return Operations(None, unknown=f"the arithmetic of {', '.join(sorted(unknown))} is not known here")
    return Operations(flop, int8)


def _sum(nodes: list[Node], products: Mapping[str, Count]) -> tuple[int, set[str]]:
    """Add up the operations of these products; returns the names of other nodes and of ones of unknown form as well."""
    light = frozenset(_LIGHT.split())
    flop, unknown = 0, set()
    for node in nodes:
        try:
            flop += 0 if node.operator in light else products[node.operator](node.given, node.made)
        except (KeyError, ValueError, IndexError):
            unknown.add(node.operator)
    return flop, unknown


def _trace(model: Path, *, optimised: bool) -> list[Node]:
    """Return the nodes that ran."""
    ort = runtime()
    with tempfile.TemporaryDirectory(prefix="fer-") as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "trace"))
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if optimised else levels.ORT_DISABLE_ALL
        # Weights that are stored in another order would not show their shapes.
        options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            inference = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"{model}: cannot be run to count its arithmetic: {error}") from error
        session = Session(inference, Device("cpu"))
        shape = [size if isinstance(size, int) else 1 for size in session.input_shapes[0]]
        session.run({session.input_names[0]: np.zeros(shape, np.float32)})
        events = json.loads(Path(inference.end_profiling()).read_text(encoding="utf-8"))
    return [
        Node(
            event["args"]["op_name"],
            _shapes(event["args"]["input_type_shape"]),
            _shapes(event["args"]["output_type_shape"]),
        )
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]


def _shapes(typed: list[Mapping[str, Any]]) -> Shapes:
    """From `[{"float": [1, 8]}, ...]` to `[[1, 8], ...]`."""
    return [list(shape) for one in typed for shape in one.values()]


def _product(given: Shapes, made: Shapes) -> int:
    # Where the first factor is meant transposed, its last axis is the result's last but one.
    *_, rows, columns = [1, *given[0]]
    inner = columns if len(made[0]) < 2 or rows == made[0][-2] else rows
    return 2 * math.prod(made[0]) * inner


def _convolution(weights: int) -> Count:
    """Count with the shape (out, in / groups, height, width) of the weights, which are this input."""
    return lambda given, made: 2 * math.prod(made[0]) * math.prod(given[weights][1:])


def _attention(given: Shapes, made: Shapes) -> int:
    """Count ONNX's Attention, of (B, heads, N, D) each; or ONNX Runtime's, which has the layers before it inside.

    Raises:
        ValueError: it is of another form.
    """
    if len(given[0]) == 4:
        keys, value_width = given[2][2:]
        return 2 * math.prod(given[0]) * keys + 2 * math.prod(given[0][:3]) * keys * value_width
    batch, tokens, width = made[0]
    inputs, layers = given[1]
    return 2 * batch * tokens * inputs * layers + 4 * batch * tokens**2 * width


def _multi_head(given: Shapes, made: Shapes) -> int:
    """Count ONNX Runtime's MultiHeadAttention, of (B, N, D) each.

    Raises:
        ValueError: it is of another form.
    """
    batch, keys, width = given[1]
    if made[0][0] != batch or len(made[0]) != 3:
        raise ValueError(made)
    return 2 * keys * (math.prod(given[0][:2]) * width + math.prod(made[0]))


_PRODUCTS: dict[str, Count] = {
    "Attention": _attention,
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "DynamicQuantizeMatMul": _product,
    "FusedConv": _convolution(1),
    "FusedGemm": _product,
    "FusedMatMul": _product,
    "Gemm": _product,
    "MatMul": _product,
    "MatMulInteger": _product,
    "MatMulIntegerToFloat": _product,
    "MultiHeadAttention": _multi_head,
    "QGemm": _product,
    "QLinearConv": _convolution(3),
    "QLinearMatMul": _product,
}

# Those that multiply 8-bit numbers.
_INT8 = (
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
)
