"""MTCNN's three networks as ONNX files, made once from facenet-pytorch's weights: `python -m export.mtcnn_onnx DIR`.

Source: Zhang et al. 2016 (arXiv:1604.02878); the weights are those inside the wheel of facenet-pytorch 2.5.3 (MIT).

The graphs are written operator by operator rather than traced, because of two exact rewrites:

- A PReLU after a convolution leaves ONNX Runtime's blocked layout, and half of the time with it. Here it is
  `slope * x + (1 - slope) * relu(x)`, the two factors as depthwise 1x1 convolutions, which stay in that layout; and the
  first convolutions get channels of zeros up to whole blocks. P-, R- and O-Net run 1.5 to 2 times as fast for it.
- facenet-pytorch transposes the feature map before its first dense layer; here the columns of that layer's weight are
  reordered instead.

Differs: outputs are `(probs, boxes[, landmarks])`, where facenet-pytorch has `(boxes[, landmarks], probs)`; `probs` is
the face's probability alone, as softmax gives it.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
NETWORKS: dict[str, type[torch.nn.Module]] = {"pnet": PNet, "rnet": RNet, "onet": ONet}
# Side in px of the crop that R-Net and O-Net read; P-Net reads pictures of any size from 12 px on.
INPUT_SIZE = {"rnet": 24, "onet": 48}

# ONNX Runtime's largest block of channels (AVX-512); smaller ones divide it.
CHANNEL_BLOCK = 16

FloatArray = npt.NDArray[np.float32]
Shape = list[str | int | None]


class GraphBuilder:
    """Collects the nodes and weights of one network; every method returns the name of the value that it computes."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.weights: dict[str, FloatArray] = {
            name: tensor.numpy().astype(np.float32) for name, tensor in network.state_dict().items()
        }
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Store an array inside the file."""
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append one operator with one output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def conv(self, x: str, name: str, weight: FloatArray, bias: FloatArray) -> str:
        """Append a convolution without padding; weight: float32, (C_out, C_in, k, k)."""
        inputs = [x, self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        return self.node("Conv", inputs, name, kernel_shape=list(weight.shape[2:]))

    def scale(self, x: str, name: str, factors: FloatArray) -> str:
        """Append a depthwise 1x1 convolution: channel c times `factors[c]`."""
        weight = self.constant(f"{name}.weight", factors[:, None, None, None])
        return self.node("Conv", [x, weight], name, kernel_shape=[1, 1], group=len(factors))

    def fill_block(self, index: int) -> None:
        """Give `conv{index}` channels of zeros up to whole blocks, which `conv{index + 1}` ignores."""
        extra = -len(self.weights[f"conv{index}.bias"]) % CHANNEL_BLOCK
        for name in (f"conv{index}.weight", f"conv{index}.bias", f"prelu{index}.weight"):
            value = self.weights[name]
            self.weights[name] = np.pad(value, [(0, extra)] + [(0, 0)] * (value.ndim - 1))
        following = self.weights[f"conv{index + 1}.weight"]
        self.weights[f"conv{index + 1}.weight"] = np.pad(following, [(0, 0), (0, extra), (0, 0), (0, 0)])

    def conv_prelu(self, x: str, index: int) -> str:
        """Append `conv{index}` and `prelu{index}`, the PReLU as the module describes."""
        linear = self.conv(x, f"conv{index}", self.weights[f"conv{index}.weight"], self.weights[f"conv{index}.bias"])
        slope = self.weights[f"prelu{index}.weight"]
        rectified = self.node("Relu", [linear], f"relu{index}")
        parts = [self.scale(linear, f"below{index}", slope), self.scale(rectified, f"above{index}", 1 - slope)]
        return self.node("Add", parts, f"prelu{index}")

    def max_pool(self, x: str, index: int, kernel: int) -> str:
        """Append a max-pool of stride 2 whose last window may hang over the edge, as facenet-pytorch's do."""
        return self.node("MaxPool", [x], f"pool{index}", kernel_shape=[kernel] * 2, strides=[2, 2], ceil_mode=1)

    def dense(self, x: str, name: str, output: str, *, map_shape: tuple[int, int, int] | None = None) -> str:
        """Append a dense layer; with `map_shape` (C, H, W) its columns are reordered from (W, H, C)."""
        weight = self.weights[f"{name}.weight"]
        if map_shape is not None:
            c, h, w = map_shape
            weight = weight.reshape(-1, w, h, c).transpose(0, 3, 2, 1).reshape(len(weight), -1)
        inputs = [
            x,
            self.constant(f"{name}.weight", weight),
            self.constant(f"{name}.bias", self.weights[f"{name}.bias"]),
        ]
        return self.node("Gemm", inputs, output, transB=1)

    def dense_prelu(self, x: str, name: str, index: int, map_shape: tuple[int, int, int]) -> str:
        """Append Flatten, the dense layer `name` and `prelu{index}` (on so few values PReLU costs nothing)."""
        dense = self.dense(self.node("Flatten", [x], "flat"), name, name, map_shape=map_shape)
        slope = self.constant(f"prelu{index}.weight", self.weights[f"prelu{index}.weight"])
        return self.node("PRelu", [dense, slope], f"prelu{index}")

    def face_probability(self, logits: str) -> str:
        """Append softmax over (no face, face) and keep the face's probability as `probs`."""
        both = self.node("Softmax", [logits], "softmax", axis=1)
        return self.node("Gather", [both, self.constant("face_index", np.array(1, np.int64))], "probs", axis=1)


def build_pnet() -> tuple[GraphBuilder, dict[str, Shape]]:
    """P-Net: a map of face probabilities and box offsets, one cell for each 12x12 window at stride 2."""
    graph = GraphBuilder(PNet())
    graph.fill_block(1)
    x = graph.max_pool(graph.conv_prelu("images", 1), 1, 2)
    x = graph.conv_prelu(graph.conv_prelu(x, 2), 3)
    logits = graph.conv(x, "logits", graph.weights["conv4_1.weight"], graph.weights["conv4_1.bias"])
    graph.face_probability(logits)
    graph.conv(x, "boxes", graph.weights["conv4_2.weight"], graph.weights["conv4_2.bias"])
    return graph, {"probs": ["batch", "rows", "columns"], "boxes": ["batch", 4, "rows", "columns"]}


def build_rnet() -> tuple[GraphBuilder, dict[str, Shape]]:
    """R-Net: 24x24 crops to face probabilities and box offsets."""
    graph = GraphBuilder(RNet())
    graph.fill_block(1)
    x = graph.max_pool(graph.conv_prelu("images", 1), 1, 3)
    x = graph.max_pool(graph.conv_prelu(x, 2), 2, 3)
    x = graph.dense_prelu(graph.conv_prelu(x, 3), "dense4", 4, (64, 3, 3))
    graph.face_probability(graph.dense(x, "dense5_1", "logits"))
    graph.dense(x, "dense5_2", "boxes")
    return graph, {"probs": ["batch"], "boxes": ["batch", 4]}


def build_onet() -> tuple[GraphBuilder, dict[str, Shape]]:
    """O-Net: 48x48 crops to face probabilities, box offsets and landmarks (five x, then five y)."""
    graph = GraphBuilder(ONet())
    x = graph.max_pool(graph.conv_prelu("images", 1), 1, 3)
    x = graph.max_pool(graph.conv_prelu(x, 2), 2, 3)
    x = graph.max_pool(graph.conv_prelu(x, 3), 3, 2)
    x = graph.dense_prelu(graph.conv_prelu(x, 4), "dense5", 5, (128, 3, 3))
    graph.face_probability(graph.dense(x, "dense6_1", "logits"))
    graph.dense(x, "dense6_2", "boxes")
    graph.dense(x, "dense6_3", "landmarks")
    return graph, {"probs": ["batch"], "boxes": ["batch", 4], "landmarks": ["batch", 10]}


BUILDERS = {"pnet": build_pnet, "rnet": build_rnet, "onet": build_onet}


def build_model(name: str) -> onnx.ModelProto:
    """Build one network as a checked ONNX model: dynamic batch, weights inside, its source in the metadata.

    The input `images` is float32, (batch, 3, height, width), RGB, `(value - 127.5) / 128`.
    """
    graph, outputs = BUILDERS[name]()
    side = INPUT_SIZE.get(name)
    shape: Shape = ["batch", 3, side or "height", side or "width"]
    proto = helper.make_graph(
        graph.nodes,
        f"mtcnn_{name}",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, dims) for key, dims in outputs.items()],
        graph.initializers,
    )
    # IR version 8 is what OPSET asks for; runtimes older than this onnx package can still read the file.
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    helper.set_model_props(
        model,
        {
            "source": f"facenet-pytorch {metadata.version('facenet-pytorch')}, {name}.pt",
            "license": "MIT, Copyright (c) 2019 Timothy Esler",
            "paper": "Zhang et al. 2016, arXiv:1604.02878",
        },
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main(arguments: list[str]) -> int:
    """Write `pnet.onnx`, `rnet.onnx` and `onet.onnx` into the folder named by the only argument."""
    if len(arguments) != 1:
        print("usage: python -m export.mtcnn_onnx DIR", file=sys.stderr)  # noqa: T201
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name in BUILDERS:
        onnx.save_model(build_model(name), folder / f"{name}.onnx")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
