"""Other people's ONNX classifiers in our pipeline: a copy with our names, any batch size, and a contract."""

from __future__ import annotations

import difflib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.free_batch import BATCH, free_batch
from fer_app.atomic_file import replacing
from fer_app.classifier import INPUT_NAME, OUTPUT_NAME, OnnxClassifier
from fer_app.contract import METADATA_KEY, Contract, Precision
from fer_app.errors import ExportError, InputError, ModelError, ModelNotFoundError, ParityError
from fer_app.labels import LABELS
from fer_app.preprocess import softmax, to_input
from fer_app.session import Session, open_session
from training.data.label_maps import SYNONYMS

Layout = Literal["nchw", "nhwc"]
Outputs = Literal["logits", "probs"]
ADOPT_TOLERANCE: Final = 1e-3
"""Largest difference of an answer from the original's, as a share of the largest answer where that is above 1."""

_TRIED_BATCHES = (1, 2, 5)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_LEAST_PROB = np.finfo(np.float32).tiny  # so that the logarithm of 0 is a number
_IN, _OUT = "contract.in", "contract.out"


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """How a network of somebody else differs from ours, beside the names.

    Attributes:
        layout: of its input; `nhwc` has the channels last, as TensorFlow writes networks.
        bgr: it takes blue first, as OpenCV reads pictures.
        outputs: what it answers: logits, or probabilities already.
        output_name: the output to take; None where there is one only.
    """

    layout: Layout = "nchw"
    bgr: bool = False
    outputs: Outputs = "logits"
    output_name: str | None = None


def canonical_labels(names: Sequence[str]) -> tuple[str, ...]:
    """Return our spelling of a network's labels, in its order: `angry` is `anger`, `Happy` is `happiness`.

    Raises:
        InputError: a name that means none of our labels, or two that mean the same.
    """
    meant = [SYNONYMS.get(name.strip().casefold()) for name in names]
    for name, label in zip(names, meant, strict=True):
        if label is None:
            close = difflib.get_close_matches(name.strip().casefold(), SYNONYMS, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(
                f"{name!r} is none of {', '.join(LABELS)}{hint} (--own-labels keeps all names as they are)"
            )
    labels = tuple(label for label in meant if label is not None)
    for label in labels:
        if labels.count(label) > 1:
            twice = ", ".join(name for name, one in zip(names, labels, strict=True) if one == label)
            raise InputError(f"several labels mean {label}: {twice}")
    return labels


def adopt(source: Path, target: Path, contract: Contract, foreign: Foreign) -> float:
    """Write a copy of an ONNX classifier that carries a contract, and prove that it answers as the original does.

    Args:
        source: the original; it is only read.
        target: the copy; its folder must exist.
        contract: what the copy says of itself; its precision is read from the network instead.
        foreign: what is to be undone.

    Returns:
        The largest difference of an answer from the original's.

    Raises:
        ModelNotFoundError: no such file.
        ExportError: the file is no ONNX model, does not fit the contract, has a batch size that cannot be made free,
            or cannot be written.
        ParityError: the copy does not answer as the original does.
    """
    if not source.is_file():
        raise ModelNotFoundError(f"no model file at {source}")
    if target.exists() and target.samefile(source):
        raise ExportError(f"{target} is the original itself: name another file to write")
    try:
        model = onnx.load(source)
    except Exception as error:  # protobuf's kinds are its own; all mean the same to the caller
        raise ExportError(f"{source} cannot be read as an ONNX model: {error}") from error
    if any(entry.key == METADATA_KEY for entry in model.metadata_props):
        raise ExportError(f"{source} carries a contract already; see it with: fer contract show {source}")
    try:
        fixed = _rewrite(model, contract.replace(precision=_precision_of(model)), foreign)
        buffer = io.BytesIO()
        onnx.save(model, buffer)
    except ExportError as error:
        raise ExportError(f"{source}: {error}") from error
    except Exception as error:  # of onnx: shapes that contradict each other, more than 2 GB, ...
        raise ExportError(f"{source}: the copy cannot be made: {type(error).__name__}: {error}") from error
    try:
        with replacing(target) as temporary:
            temporary.write_bytes(buffer.getvalue())
            return _hold_against(source, temporary, contract, foreign, fixed)
    except (OSError, InputError) as error:
        raise ExportError(f"cannot write {target}: {error}") from error


def _rewrite(model: onnx.ModelProto, contract: Contract, foreign: Foreign) -> int:
    """Give the network our input, our output and the contract; return the batch size that it was fixed to, or 0."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise ExportError(f"has {len(inputs)} inputs ({names}); a classifier of pictures has one")
    del graph.input[:]  # old files list their weights there as well
    graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)
    _check_input(inputs[0], contract, foreign.layout)
    output = _chosen(list(graph.output), foreign.output_name)
    del graph.output[:]
    graph.output.append(output)
    fixed: int = inputs[0].type.tensor_type.shape.dim[0].dim_value
    if fixed:
        free_batch(model)
    own = {INPUT_NAME, OUTPUT_NAME} & _names(graph)
    if own:  # a tensor somewhere in the network, or its own input
        prefixed = onnx.compose.add_prefix(model, "original.")
        model.CopyFrom(prefixed)
    _wrap(model, contract, foreign)
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    return fixed


def _check_input(given: onnx.ValueInfoProto, contract: Contract, layout: Layout) -> None:
    kind = given.type.tensor_type
    if kind.elem_type not in _FLOATS:
        raise ExportError(f"takes {TensorProto.DataType.Name(kind.elem_type)}, not floating-point pictures")
    has = [dim.dim_value or dim.dim_param or "?" for dim in kind.shape.dim]
    chans, side = contract.in_chans, contract.img_size
    expected = {"nchw": (chans, side, side), "nhwc": (side, side, chans)}

    def fits(sizes: tuple[int, ...]) -> bool:
        return len(has) == 4 and all(
            not isinstance(own, int) or own == size for own, size in zip(has[1:], sizes, strict=True)
        )

    if not fits(expected[layout]):
        other: Layout = "nhwc" if layout == "nchw" else "nchw"
        hint = f"; it fits --layout {other}" if fits(expected[other]) else ""
        wanted = ", ".join(map(str, ("batch", *expected[layout])))
        raise ExportError(f"takes ({', '.join(map(str, has))}), but what was said of it means ({wanted}){hint}")


def _chosen(outputs: list[onnx.ValueInfoProto], name: str | None) -> onnx.ValueInfoProto:
    names = ", ".join(value.name for value in outputs)
    if name is None and len(outputs) > 1:
        raise ExportError(f"has several outputs; name one with --output-name: {names}")
    for value in outputs:
        if name in (None, value.name):
            return value
    raise ExportError(f"has no output {name!r}; it has {names}")


def _wrap(model: onnx.ModelProto, contract: Contract, foreign: Foreign) -> None:
    """Put nodes before and behind the network that make its input and output ours."""
    graph = model.graph
    given, answered = graph.input[0], graph.output[0]
    before: list[tuple[str, list[str], dict[str, Any]]] = []
    if foreign.bgr:
        graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), f"{_IN}.order"))
        before.append(("Gather", [f"{_IN}.order"], {"axis": 1}))
    if foreign.layout == "nhwc":
        before.append(("Transpose", [], {"perm": [0, 2, 3, 1]}))
    before.append(("Cast", [], {"to": given.type.tensor_type.elem_type}))
    behind: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Flatten", [], {"axis": 1}),
        ("Cast", [], {"to": TensorProto.FLOAT}),
    ]
    if foreign.outputs == "probs":
        graph.initializer.append(numpy_helper.from_array(np.array([_LEAST_PROB]), f"{_OUT}.least"))
        behind += [("Add", [f"{_OUT}.least"], {}), ("Log", [], {})]
    nodes = [*_chain(before, INPUT_NAME, given.name, _IN), *graph.node]
    nodes += _chain(behind, answered.name, OUTPUT_NAME, _OUT)
    side = contract.img_size
    ours = helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [BATCH, contract.in_chans, side, side])
    logits = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [BATCH, len(contract.labels)])
    for values, new in ((graph.input, [ours]), (graph.output, [logits]), (graph.node, nodes)):
        del values[:]
        values.extend(new)


def _chain(
    steps: list[tuple[str, list[str], dict[str, Any]]], first: str, last: str, name: str
) -> list[onnx.NodeProto]:
    """Make a node of each step: the operator, further inputs, attributes."""
    between = [first, *(f"{name}.{number}" for number in range(1, len(steps))), last]
    return [
        helper.make_node(kind, [between[number], *more], [between[number + 1]], f"{name}.{kind}", **attributes)
        for number, (kind, more, attributes) in enumerate(steps)
    ]


def _names(graph: onnx.GraphProto) -> set[str]:
    nodes = {name for node in graph.node for name in (*node.input, *node.output)}
    return nodes | {value.name for value in (*graph.input, *graph.initializer)}


def _precision_of(model: onnx.ModelProto) -> Precision:
    """Tell a network's arithmetic from its nodes and weights."""
    operators = {node.op_type for node in model.graph.node}
    if operators & {"QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv"}:
        return "int8"
    sizes = {TensorProto.FLOAT: 0, TensorProto.FLOAT16: 0}
    for tensor in model.graph.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += int(np.prod(tensor.dims))
    return "fp16" if sizes[TensorProto.FLOAT16] > sizes[TensorProto.FLOAT] else "fp32"


def _hold_against(source: Path, copy: Path, contract: Contract, foreign: Foreign, fixed: int) -> float:
    """Run both on made-up pictures; return the largest difference of an answer.

    Raises:
        ExportError: one of them does not run, or what was said of its labels or outputs cannot be.
        ParityError: they differ by more than `ADOPT_TOLERANCE`.
    """
    inputs = to_input(_pictures(max(_TRIED_BATCHES)), contract)
    try:
        original = open_session(source, device="cpu")
        expected = np.stack([_original(original, one, foreign, fixed or 1) for one in inputs])
    except ModelError as error:
        why = str(error).removeprefix(f"{source}: ")
        raise ExportError(f"{source}: it does not run on pictures as described: {why}") from error
    _check_answers(source, expected, contract, foreign)
    try:
        OnnxClassifier(copy, device="cpu", threads=1)  # the copy must be one that serving accepts
        served = open_session(copy, device="cpu")
    except ModelError as error:
        raise ExportError(_not_freed(source, fixed, str(error).replace(str(copy), "the copy"))) from error
    worst = 0.0
    for batch in _TRIED_BATCHES:
        try:
            (answers,) = served.run({INPUT_NAME: inputs[:batch]})
        except ModelError as error:
            raise ExportError(_not_freed(source, fixed, str(error))) from error
        if answers.shape != (batch, len(contract.labels)):
            raise ExportError(_not_freed(source, fixed, f"{batch} pictures give {answers.shape}"))
        ours = softmax(answers) if foreign.outputs == "probs" else answers
        worst = max(worst, float(np.abs(ours - expected[:batch]).max()))
        if not worst <= ADOPT_TOLERANCE * max(1.0, float(np.abs(expected).max())):
            if batch > 1:
                raise ExportError(_not_freed(source, fixed, f"the answers for {batch} pictures differ by {worst:.3g}"))
            raise ParityError(f"{source}: the copy's answers differ from the original's by up to {worst:.3g}")
    return worst


def _original(session: Session, image: NDArray[np.float32], foreign: Foreign, batch: int) -> NDArray[np.float32]:
    """Return the original's answer to one picture, (K,)."""
    if foreign.bgr:
        image = image[::-1]
    if foreign.layout == "nhwc":
        image = image.transpose(1, 2, 0)
    number = session.input_types[0].removeprefix("tensor(").removesuffix(")")
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[number]
    feeds = {session.input_names[0]: np.ascontiguousarray(np.stack([image] * batch), dtype)}
    name = foreign.output_name or session.output_names[0]
    answer = session.run(feeds)[session.output_names.index(name)]
    if answer.ndim == 0 or len(answer) != batch:
        raise ExportError(f"{batch} pictures give {answer.shape}: that is no answer a picture")
    return np.asarray(answer[0], np.float32).reshape(-1)


def _check_answers(source: Path, answers: NDArray[np.float32], contract: Contract, foreign: Foreign) -> None:
    count = len(contract.labels)
    if answers.shape[1] != count:
        raise ExportError(f"{source}: has {answers.shape[1]} classes, but {count} labels were given")
    if not np.isfinite(answers).all():
        raise ExportError(f"{source}: its answers to made-up pictures are not all numbers")
    sums = answers.sum(axis=1)
    are_probs = bool((answers >= 0).all() and (np.abs(sums - 1) < 1e-3).all())
    if foreign.outputs == "probs" and not are_probs:
        raise ExportError(
            f"{source}: its outputs are no probabilities: they lie between {answers.min():.3g} and {answers.max():.3g} "
            f"and sum to {sums[0]:.3g}; leave out --output probs"
        )
    if foreign.outputs == "logits" and are_probs:
        raise ExportError(f"{source}: its outputs are probabilities, not logits; say --output probs")


def _not_freed(source: Path, fixed: int, why: str) -> str:
    if not fixed:
        return f"{source}: it does not take several pictures at once: {why}"
    return (
        f"{source}: it was exported for a batch of {fixed}, and that cannot be undone here ({why}); export it again "
        "with a free batch axis, such as torch.onnx.export(..., dynamic_shapes=...)"
    )


def _pictures(count: int) -> NDArray[np.uint8]:
    """Return uint8 (count, 48, 48, 3) made-up pictures, each of other colours."""
    rng = np.random.default_rng(0)
    tints = rng.integers(0, 256, (count, 1, 1, 3))
    noise = rng.integers(0, 256, (count, 48, 48, 3))
    return ((tints + noise) // 2).astype(np.uint8)
