"""Make tests/fer_app/data/tiny.onnx, a classifier whose answer can be worked out by hand, and tiny_explained.onnx.

The mean of each colour, normalised to -1..1, times 6 is a logit: red makes anger, green happiness, blue sadness; the
other labels stay at 0. The second one also gives `features`, the three means, and `evidence`, the same of each of
4 x 4 patches. The files are kept because the tests that use them run without `onnx`.
Run: python tests/export/make_tiny_model.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fer_app.contract import METADATA_KEY, Contract
from fer_app.labels import LABELS

SIZE = 16
CONTRACT = Contract(
    labels=LABELS,
    img_size=SIZE,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    crop="fer48-v1",
    uncertain_below=0.5,
    license="public domain (a test file)",
)


def make(*, explained: bool) -> onnx.ModelProto:
    weight = np.zeros((len(LABELS), 3, 1, 1), np.float32)
    for channel, label in enumerate(("anger", "happiness", "sadness")):
        weight[LABELS.index(label), channel] = 6.0
    matrix = numpy_helper.from_array(weight[:, :, 0, 0].T.copy(), "weight")
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "weight"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])]
    constants = [matrix]
    if explained:
        side = SIZE // 4
        nodes += [
            helper.make_node("AveragePool", ["images"], ["patches"], kernel_shape=[4, 4], strides=[4, 4]),
            helper.make_node("Conv", ["patches", "kernel"], ["evidence"]),
        ]
        constants.append(numpy_helper.from_array(weight, "kernel"))
        outputs += [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("evidence", TensorProto.FLOAT, ["batch", len(LABELS), side, side]),
        ]
    graph = helper.make_graph(nodes, "tiny", [images], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: CONTRACT.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    folder = Path(__file__).parents[1] / "fer_app" / "data"
    folder.mkdir(exist_ok=True)
    for name, explained in (("tiny", False), ("tiny_explained", True)):
        target = folder / f"{name}.onnx"
        target.write_bytes(make(explained=explained).SerializeToString(deterministic=True))
        print(f"{target}: {target.stat().st_size} bytes")  # noqa: T201 - a script that reports what it wrote
