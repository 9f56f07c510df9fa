"""Make tests/fer_app/data/tiny.onnx, a classifier whose answer can be worked out by hand.

The mean of each colour, normalised to -1..1, times 6 is a logit: red makes anger, green happiness, blue sadness; the
other labels stay at 0. The file is kept because the tests that use it run without `onnx`.
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


def make() -> onnx.ModelProto:
    weight = np.zeros((3, len(LABELS)), np.float32)
    for channel, label in enumerate(("anger", "happiness", "sadness")):
        weight[channel, LABELS.index(label)] = 6.0
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["colours"]),
        helper.make_node("MatMul", ["colours", "weight"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])
    graph = helper.make_graph(nodes, "tiny", [images], [logits], [numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: CONTRACT.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "fer_app" / "data" / "tiny.onnx"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(make().SerializeToString(deterministic=True))
    print(f"{target}: {target.stat().st_size} bytes")  # noqa: T201 - a script that reports what it wrote
