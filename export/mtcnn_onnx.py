"""MTCNN's three networks as ONNX files, made once from facenet-pytorch's weights: `python -m export.mtcnn_onnx DIR`.

Source: Zhang et al. 2016 (arXiv:1604.02878); the weights are those inside the wheel of facenet-pytorch 2.5.3 (MIT).

The graphs are written operator by operator rather than traced, because of exact rewrites that make them two to three
times as fast in ONNX Runtime on a CPU:

- A PReLU after a convolution leaves ONNX Runtime's blocked layout, and half of the time with it. Here it is
  `slope * x + relu((1 - slope) * x)`, the two factors as depthwise 1x1 convolutions with ReLU and sum fused into them,
  which stay in that layout; and first convolutions get channels of zeros up to whole blocks.
- P-Net's first PReLU, on the largest map of all, comes after the max-pool, see `GraphBuilder.pooled_prelu`.
- The input is 0..255 as in the picture: `(x - 127.5) / 128` is folded into the first convolution, which has no padding.
- facenet-pytorch transposes the feature map before its first dense layer; here the columns of that layer's weight are
  reordered instead.
- The output layers are one. Of the two logits only the difference matters, and softmax is left to those who read it.

Differs: one output, whose axis 1 holds the logit of a face, four box offsets and (O-Net) ten coordinates of landmarks,
where facenet-pytorch has separate ones and two probabilities: `1 / (1 + exp(-logit))` is that of a face.
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
        weight, bias = (self.weights[f"conv1.{kind}"].astype(np.float64) for kind in ("weight", "bias"))
        self.weights["conv1.weight"] = (weight / 128).astype(np.float32)
        self.weights["conv1.bias"] = (bias - weight.sum((1, 2, 3)) * 127.5 / 128).astype(np.float32)

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Store an array inside the file."""
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append one operator with one output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def conv(self, x: str, name: str, weight: FloatArray, bias: FloatArray | None = None) -> str:
        """Append a convolution without padding; weight: float32, (C_out, C_in, k, k)."""
        inputs = [x, self.constant(f"{name}.weight", weight)]
        if bias is not None:
            inputs.append(self.constant(f"{name}.bias", bias))
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
        if slope.max() <= 1:
            rectified = self.node("Relu", [self.scale(linear, f"above{index}", 1 - slope)], f"relu{index}")
        else:
            # The other order, which is slower, allows a factor below zero.
            rectified = self.scale(self.node("Relu", [linear], f"relu{index}"), f"above{index}", 1 - slope)
        return self.node("Add", [rectified, self.scale(linear, f"below{index}", slope)], f"prelu{index}")

    def pooled_prelu(self, x: str) -> str:
        """Append `conv1`, a 2x2 max-pool, and `prelu1` as if it came before the pool.

        With a slope of at least 0 PReLU rises, and the order does not matter. With a slope s below 0 the largest
        PReLU(x) of a window is max(M, |s| N), where M is its largest x and N its largest -x; as the latter the
        convolution gets more channels. Both are `a + b * relu(c)`, with a and c linear in M and N.
        """
        weight, bias, slope = (self.weights[name] for name in ("conv1.weight", "conv1.bias", "prelu1.weight"))
        count, negative = len(slope), np.flatnonzero(slope < 0)
        weight, bias = np.concatenate([weight, -weight[negative]]), np.concatenate([bias, -bias[negative]])
        # Factors of M (the first `count` columns) and of N.
        linear = np.hstack([np.diag(np.maximum(slope, 0)), np.diag(np.maximum(-slope, 0))[:, negative]])
        inner = np.hstack([np.eye(count), np.diag(np.minimum(slope, 0))[:, negative]])
        outer = np.where(slope < 0, 1, 1 - slope)
        inputs, outputs = (-size % CHANNEL_BLOCK for size in (len(bias), count))
        conv = self.conv(x, "conv1", np.pad(weight, [(0, inputs), *[(0, 0)] * 3]), np.pad(bias, (0, inputs)))
        pooled = self.max_pool(conv, 1, 2)
        a, c = (
            self.conv(pooled, name, np.pad(factors, [(0, outputs), (0, inputs)])[:, :, None, None].astype(np.float32))
            for name, factors in (("linear1", linear), ("inner1", inner))
        )
        scaled = self.scale(self.node("Relu", [c], "relu1"), "outer1", np.pad(outer, (0, outputs)).astype(np.float32))
        self.weights["conv2.weight"] = np.pad(self.weights["conv2.weight"], [(0, 0), (0, outputs), (0, 0), (0, 0)])
        return self.node("Add", [scaled, a], "prelu1")

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

    def heads(self, *names: str) -> tuple[FloatArray, FloatArray]:
        """Weight and bias of the output layers as one; the first one's two logits become their difference."""
        parts = [[self.weights[f"{name}.{kind}"] for name in names] for kind in ("weight", "bias")]
        weight, bias = (np.concatenate([first[1:] - first[:1], *others]) for first, *others in parts)
        return weight, bias

    def dense_heads(self, x: str, *names: str) -> str:
        """Append the output layers as one dense layer."""
        self.weights["heads.weight"], self.weights["heads.bias"] = self.heads(*names)
        return self.dense(x, "heads", "values")


def build_pnet() -> tuple[GraphBuilder, Shape]:
    """P-Net: a map of face logits and box offsets, one cell for each 12x12 window at stride 2."""
    graph = GraphBuilder(PNet())
    x = graph.conv_prelu(graph.conv_prelu(graph.pooled_prelu("images"), 2), 3)
    graph.conv(x, "values", *graph.heads("conv4_1", "conv4_2"))
    return graph, ["batch", 5, "rows", "columns"]


def build_rnet() -> tuple[GraphBuilder, Shape]:
    """R-Net: 24x24 crops to face logits and box offsets."""
    graph = GraphBuilder(RNet())
    graph.fill_block(1)
    x = graph.max_pool(graph.conv_prelu("images", 1), 1, 3)
    x = graph.max_pool(graph.conv_prelu(x, 2), 2, 3)
    x = graph.dense_prelu(graph.conv_prelu(x, 3), "dense4", 4, (64, 3, 3))
    graph.dense_heads(x, "dense5_1", "dense5_2")
    return graph, ["batch", 5]


def build_onet() -> tuple[GraphBuilder, Shape]:
    """O-Net: 48x48 crops to face logits, box offsets and landmarks (five x, then five y)."""
    graph = GraphBuilder(ONet())
    x = graph.max_pool(graph.conv_prelu("images", 1), 1, 3)
    x = graph.max_pool(graph.conv_prelu(x, 2), 2, 3)
    x = graph.max_pool(graph.conv_prelu(x, 3), 3, 2)
    x = graph.dense_prelu(graph.conv_prelu(x, 4), "dense5", 5, (128, 3, 3))
    graph.dense_heads(x, "dense6_1", "dense6_2", "dense6_3")
    return graph, ["batch", 15]


BUILDERS = {"pnet": build_pnet, "rnet": build_rnet, "onet": build_onet}


def build_model(name: str) -> onnx.ModelProto:
    """Build one network as a checked ONNX model: dynamic batch, weights inside, its source in the metadata.

    The input `images` is float32, (batch, 3, height, width), RGB, 0..255.
    """
    graph, values = BUILDERS[name]()
    side = INPUT_SIZE.get(name)
    shape: Shape = ["batch", 3, side or "height", side or "width"]
    proto = helper.make_graph(
        graph.nodes,
        f"mtcnn_{name}",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, values)],
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
