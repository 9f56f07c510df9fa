"""Networks that were exported for one batch size, made to take any."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

BATCH: Final = "batch"
_SIZE: Final = "free_batch.size"


def free_batch(model: onnx.ModelProto) -> None:
    """Make the first axis of a network's one input free.

    What exporters write down of a fixed batch is undone: the first number of a `Reshape`, and constants such as a class
    token, which are joined to every picture's tokens. That the result computes the same for several pictures as for
    each alone is for the caller to try: a graph may mix its batch in ways that are not known here.

    Args:
        model: with one input of a fixed first axis; changed in place.
    """
    _fold(model)
    graph = model.graph
    (given,) = graph.input
    shapes = _shapes(model)
    batch = given.type.tensor_type.shape.dim[0].dim_value
    constants = _constants(graph)
    after = {given.name}  # everything that is computed from the pictures
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(graph.node):
        if after.intersection(node.input):
            after.update(node.output)
            if node.op_type == "Reshape":
                _free_reshape(graph, node, number, shapes, constants, batch)
            elif node.op_type == "Concat" and batch == 1:
                nodes += _repeated(graph, node, number, shapes, after)
        nodes.append(node)
    if any(_SIZE in node.input for node in nodes):
        graph.initializer.append(numpy_helper.from_array(np.array([0]), f"{_SIZE}.first"))
        nodes = [
            helper.make_node("Shape", [given.name], [f"{_SIZE}.all"]),
            helper.make_node("Gather", [f"{_SIZE}.all", f"{_SIZE}.first"], [_SIZE], axis=0),
            *nodes,
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    given.type.tensor_type.shape.dim[0].dim_param = BATCH
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


def _fold(model: onnx.ModelProto) -> None:
    """Compute everything that does not depend on the pictures' values: shapes, and what is made from them."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        ort.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["MatMulAddFusion"],  # it reshapes around every layer
        )
        folded = onnx.load(options.optimized_model_filepath)
    model.graph.CopyFrom(folded.graph)


def _free_reshape(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    number: int,
    shapes: dict[str, list[int]],
    constants: dict[str, np.ndarray[Any, Any]],
    batch: int,
) -> None:
    """Let the first axis of a constant shape follow the batch, or what the batch was folded into."""
    if node.input[1] not in constants:
        return
    wanted = constants[node.input[1]].tolist()
    if not wanted or wanted[0] < 1:
        return
    before, made = shapes.get(node.input[0]), shapes.get(node.output[0])
    copies = not any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)
    if copies and before and before[0] == wanted[0] == batch:
        wanted[0] = 0  # as it comes
    elif made and 0 not in made:
        wanted = [-1, *made[1:]]
    elif -1 not in wanted:
        wanted[0] = -1
    name = f"free_batch.shape.{number}"
    graph.initializer.append(numpy_helper.from_array(np.array(wanted, np.int64), name))
    node.input[1] = name


def _repeated(
    graph: onnx.GraphProto, node: onnx.NodeProto, number: int, shapes: dict[str, list[int]], after: set[str]
) -> list[onnx.NodeProto]:
    """Repeat what is the same for all pictures where it is joined to something of each."""
    axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis")
    added = []
    for place, name in enumerate(node.input):
        shape = shapes.get(name, [])
        if name in after or len(shape) < 2 or shape[0] != 1 or axis % len(shape) == 0:
            continue
        ones, target, repeated = (f"free_batch.{what}.{number}.{place}" for what in ("ones", "target", "repeated"))
        graph.initializer.append(numpy_helper.from_array(np.ones(len(shape) - 1, np.int64), ones))
        added += [
            helper.make_node("Concat", [_SIZE, ones], [target], axis=0),
            helper.make_node("Expand", [name, target], [repeated]),
        ]
        node.input[place] = repeated
    return added


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray[Any, Any]]:
    found = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64
    }
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.t.data_type == onnx.TensorProto.INT64:
                    found[node.output[0]] = numpy_helper.to_array(attribute.t)
    return found


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Return the shapes that are known of a network's tensors; an axis of unknown size counts 0."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found = {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.type.tensor_type.HasField("shape"):
            found[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return found
