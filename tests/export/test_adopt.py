"""Other people's networks: whatever their names, layout, batch and outputs are, the copy answers as they do."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import export.adopt as module
from export.adopt import Foreign, adopt, canonical_labels
from fer_app.classifier import OnnxClassifier
from fer_app.contract import Contract
from fer_app.errors import ExportError, InputError, ModelNotFoundError, ParityError
from fer_app.preprocess import softmax

SIDE = 8
LABELS = ("anger", "happiness", "sadness")
CONTRACT = Contract(labels=LABELS, img_size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3, crop="fer48-v1")


def network(
    path: Path,
    *,
    names: tuple[str, str] = ("data", "prediction"),
    batch: int | str = "N",
    nhwc: bool = False,
    probs: bool = False,
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
    tail: str = "",
) -> Path:
    """A network whose logits are the means of red, green and blue, times 6."""
    given, answer = names
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    shape = [batch, SIDE, SIDE, 3] if nhwc else [batch, 3, SIDE, SIDE]
    inner = "flat" if "images" in names else "images"  # a name that ours must not meet
    rows = batch if isinstance(batch, int) else -1
    tails = {"wide": [rows, 3, 1, 1], "turned": [1, rows, 3]}
    weights = {
        "rows": np.array([rows, 3]),
        "weight": 6 * np.eye(3, dtype=dtype),
        **({"tail": np.array(tails[tail])} if tail in tails else {}),
    }
    nodes = [
        *([helper.make_node("Transpose", [given], ["first"], perm=[0, 3, 1, 2])] if nhwc else []),
        helper.make_node("ReduceMean", ["first" if nhwc else given], ["pooled"], axes=[2, 3]),
        helper.make_node("Reshape", ["pooled", "rows"], [inner]),
        helper.make_node("MatMul", [inner, "weight"], ["before"]),
        helper.make_node("Softmax" if probs else "Identity", ["before"], ["end"]),
    ]
    if tail in tails:
        nodes.append(helper.make_node("Reshape", ["end", "tail"], [answer]))
    elif tail == "mixed":  # over the batch: for one picture alone it looks innocent
        nodes.append(helper.make_node("ReduceMean", ["end"], ["mean"]))
        nodes.append(helper.make_node("Sub", ["end", "mean"], [answer]))
    else:
        nodes.append(helper.make_node("Identity", ["end"], [answer]))
    graph = helper.make_graph(
        nodes,
        "somebody's",
        [helper.make_tensor_value_info(given, kind, shape)],
        [helper.make_tensor_value_info(answer, kind, None)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def crops(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return ((rng.integers(0, 256, (count, 1, 1, 3)) + rng.integers(0, 256, (count, 20, 24, 3))) // 2).astype(np.uint8)


def colours(pictures: np.ndarray) -> np.ndarray:
    return (pictures.mean(axis=(1, 2)) / 255 - 0.5) / 0.25 * 6


@pytest.mark.parametrize(
    ("made", "foreign"),
    [
        ({}, Foreign()),
        ({"names": ("images", "logits")}, Foreign()),
        ({"names": ("logits", "out")}, Foreign()),
        ({"batch": 1}, Foreign()),
        ({"batch": 4}, Foreign()),
        ({"nhwc": True, "batch": 1}, Foreign(layout="nhwc")),
        ({"probs": True}, Foreign(outputs="probs")),
        ({"probs": True, "nhwc": True, "batch": 1, "tail": "wide"}, Foreign(layout="nhwc", outputs="probs")),
        ({"kind": TensorProto.FLOAT16}, Foreign()),
        ({"kind": TensorProto.DOUBLE, "opset": 9, "batch": 1}, Foreign()),
        ({"tail": "wide"}, Foreign()),
    ],
    ids=str,
)
def test_the_copy_answers_as_the_original(tmp_path: Path, made: dict, foreign: Foreign) -> None:
    source = network(tmp_path / "theirs.onnx", **made)
    before = source.read_bytes()
    adopt(source, tmp_path / "ours.onnx", CONTRACT, foreign)
    assert source.read_bytes() == before
    ours = OnnxClassifier(tmp_path / "ours.onnx", device="cpu", batch_size=4)
    half = made.get("kind") == TensorProto.FLOAT16
    assert ours.contract == CONTRACT.replace(precision="fp16" if half else "fp32")
    for count in (0, 1, 4, 7):
        expected = colours(crops(count)).reshape(-1, 3)
        if foreign.outputs == "probs":
            np.testing.assert_allclose(ours.probs(crops(count)), softmax(expected.astype(np.float32)), atol=1e-5)
        else:
            np.testing.assert_allclose(ours.logits(crops(count)), expected, atol=0.02 if half else 1e-4)
    onnx.checker.check_model(str(tmp_path / "ours.onnx"), full_check=True)


def test_blue_first(tmp_path: Path) -> None:
    adopt(network(tmp_path / "theirs.onnx"), tmp_path / "ours.onnx", CONTRACT, Foreign(bgr=True))
    ours = OnnxClassifier(tmp_path / "ours.onnx", device="cpu")
    np.testing.assert_allclose(ours.logits(crops(3)), colours(crops(3))[:, ::-1], atol=1e-4)


def test_a_probability_of_nothing_stays_nothing(tmp_path: Path) -> None:
    source = network(tmp_path / "theirs.onnx", probs=True)
    far = CONTRACT.replace(std=(0.001,) * 3)  # answers so far apart that some probabilities are 0
    adopt(source, tmp_path / "ours.onnx", far, Foreign(outputs="probs"))
    ours = OnnxClassifier(tmp_path / "ours.onnx", device="cpu")
    assert np.isfinite(ours.logits(crops(5))).all()
    probs = ours.probs(crops(5))
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)
    assert probs.min() < 1e-30


def test_old_files_list_their_weights_among_the_inputs(tmp_path: Path) -> None:
    source = network(tmp_path / "theirs.onnx", batch=1, opset=8)
    model = onnx.load(source)
    model.ir_version = 3
    model.graph.input.insert(0, helper.make_tensor_value_info("weight", TensorProto.FLOAT, [3, 3]))
    model.graph.input.append(helper.make_tensor_value_info("rows", TensorProto.INT64, [2]))
    source.write_bytes(model.SerializeToString())
    adopt(source, tmp_path / "ours.onnx", CONTRACT, Foreign())
    ours = OnnxClassifier(tmp_path / "ours.onnx", device="cpu")
    np.testing.assert_allclose(ours.logits(crops(3)), colours(crops(3)), atol=1e-4)


@pytest.mark.parametrize(
    ("made", "change", "foreign", "message"),
    [
        ({}, {"labels": ("a", "b")}, Foreign(), "has 3 classes, but 2 labels were given"),
        ({}, {"img_size": 9}, Foreign(), r"takes \(N, 3, 8, 8\), but what was said of it means \(batch, 3, 9, 9\)$"),
        ({"nhwc": True}, {}, Foreign(), r"takes \(N, 8, 8, 3\).*it fits --layout nhwc"),
        ({}, {}, Foreign(layout="nhwc"), "it fits --layout nchw"),
        ({"probs": True}, {}, Foreign(), "are probabilities, not logits; say --output probs"),
        ({}, {}, Foreign(outputs="probs"), "are no probabilities: they lie between"),
        ({}, {}, Foreign(output_name="x"), "has no output 'x'; it has prediction"),
        ({"kind": TensorProto.INT32}, {}, Foreign(), "takes INT32, not floating-point pictures"),
        ({"batch": 2, "tail": "turned"}, {}, Foreign(), "2 pictures give"),
        ({"tail": "mixed"}, {}, Foreign(), "does not take several pictures at once: the answers for 2 pictures differ"),
        ({"batch": 1, "tail": "mixed"}, {}, Foreign(), "exported for a batch of 1.*free batch axis"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(tmp_path: Path, made: dict, change: dict, foreign: Foreign, message: str) -> None:
    source = network(tmp_path / "theirs.onnx", **made)
    with pytest.raises(ExportError, match=message):
        adopt(source, tmp_path / "ours.onnx", CONTRACT.replace(**change), foreign)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.onnx"]


def test_files_that_cannot_be_used(tmp_path: Path, tiny_model: Path) -> None:
    target = tmp_path / "ours.onnx"
    with pytest.raises(ModelNotFoundError):
        adopt(tmp_path / "none.onnx", target, CONTRACT, Foreign())
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ExportError, match="cannot be read as an ONNX model"):
        adopt(tmp_path / "text.onnx", target, CONTRACT, Foreign())
    with pytest.raises(ExportError, match="carries a contract already"):
        adopt(tiny_model, target, CONTRACT, Foreign())
    source = network(tmp_path / "theirs.onnx")
    with pytest.raises(ExportError, match="the original itself"):
        adopt(source, source, CONTRACT, Foreign())
    with pytest.raises(ExportError, match="cannot write"):
        adopt(source, tmp_path / "nowhere" / "ours.onnx", CONTRACT, Foreign())
    assert not target.exists()


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    source = network(tmp_path / "theirs.onnx")
    model = onnx.load(source)
    model.graph.output.insert(0, helper.make_tensor_value_info("pooled", TensorProto.FLOAT, None))
    source.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="several outputs; name one with --output-name: pooled, prediction"):
        adopt(source, tmp_path / "ours.onnx", CONTRACT, Foreign())
    adopt(source, tmp_path / "ours.onnx", CONTRACT, Foreign(output_name="prediction"))
    ours = OnnxClassifier(tmp_path / "ours.onnx", device="cpu")
    np.testing.assert_allclose(ours.logits(crops(3)), colours(crops(3)), atol=1e-4)
    model.graph.input.append(helper.make_tensor_value_info("age", TensorProto.FLOAT, [1]))
    source.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"has 2 inputs \(data, age\)"):
        adopt(source, tmp_path / "b.onnx", CONTRACT, Foreign(output_name="prediction"))


def test_a_copy_that_answers_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reversed_input(session, image, foreign, batch):
        return original(session, image[::-1], foreign, batch)

    original = module._original
    monkeypatch.setattr(module, "_original", reversed_input)
    source = network(tmp_path / "theirs.onnx")
    with pytest.raises(ParityError, match="differ from the original's"):
        adopt(source, tmp_path / "ours.onnx", CONTRACT, Foreign())
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.onnx"]


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_network_exported_by_torch_for_one_picture(tmp_path: Path, name: str, dynamo: bool) -> None:
    import timm

    torch.manual_seed(0)
    options = {"img_size": 32} if name == "test_vit" else {}
    net = timm.create_model(name, num_classes=3, **options).eval()
    torch.nn.init.normal_(net.get_classifier().weight)
    source = tmp_path / "theirs.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.zeros(1, 3, 32, 32),), source, dynamo=dynamo, verbose=False)
    contract = CONTRACT.replace(img_size=32)
    adopt(source, tmp_path / "ours.onnx", contract, Foreign())
    ours = OnnxClassifier(tmp_path / "ours.onnx", device="cpu")
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    images = torch.from_numpy((pictures.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25).float()
    with torch.inference_mode():
        expected = net(images).numpy()
    assert np.ptp(expected, axis=0).max() > 0.1  # the pictures differ in their answers
    np.testing.assert_allclose(ours.logits(pictures), expected, atol=1e-3)


def test_labels_in_our_spelling() -> None:
    assert canonical_labels(["Angry", " happy ", "SADNESS"]) == LABELS
    with pytest.raises(InputError, match=r"'hapy' is none of neutral, .* did you mean happy"):
        canonical_labels(["angry", "hapy"])
    with pytest.raises(InputError, match="several labels mean anger: angry, anger"):
        canonical_labels(["angry", "happy", "anger"])
