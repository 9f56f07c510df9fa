"""`fer bench` counts the arithmetic of a vision transformer as the formula has it, in every arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

from export.onnx_export import export_onnx
from fer_app.bench.operations import count_operations
from tests.export.test_onnx_export import write_checkpoint
from training.recipe_files import load_recipe

PLAIN_HEAD = ["finetune.projection=none"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_onnx(write_checkpoint(folder / "a.safetensors", PLAIN_HEAD), folder / "a.onnx")
    return folder / "a.onnx"


def formula() -> int:
    """A block of n tokens and width D has 12 n D^2 + 2 n^2 D multiplications with additions (docs/performance.md)."""
    config = load_recipe("debug", ['stages=["finetune"]', *PLAIN_HEAD]).model.vit_config()
    patches = (config.img_size // config.patch_size) ** 2
    tokens, width = patches + 1, config.embed_dim
    blocks = config.depth * (12 * tokens * width**2 + 2 * tokens**2 * width)
    return 2 * (blocks + patches * width * config.in_chans * config.patch_size**2 + width * 8)


def test_float32(exported: Path) -> None:
    assert count_operations(exported) == (formula(), 0, "")


def in_8_bits() -> int:
    """Of the formula: the linear layers of the blocks and the head; the products of attention stay in float32."""
    config = load_recipe("debug", ['stages=["finetune"]', *PLAIN_HEAD]).model.vit_config()
    tokens, width = (config.img_size // config.patch_size) ** 2 + 1, config.embed_dim
    return 2 * (config.depth * 12 * tokens * width**2 + width * 8)


def test_dynamic_int8(exported: Path, tmp_path: Path) -> None:
    """As MatMulInteger in the file."""
    kinds = ["MatMul", "Gemm"]
    quantize_dynamic(
        exported, tmp_path / "int8.onnx", weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=kinds
    )
    assert count_operations(tmp_path / "int8.onnx") == (formula(), in_8_bits(), "")


class Noise(CalibrationDataReader):
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.left = iter([{"images": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}])

    def get_next(self) -> dict[str, np.ndarray]:
        return next(self.left, {})


def test_static_int8(exported: Path, tmp_path: Path) -> None:
    """As float32 between two roundings in the file: what is done in 8 bits shows only when it runs."""
    graph = onnx.load(exported).graph
    weights = {tensor.name for tensor in graph.initializer}
    linear = [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    assert linear
    config = load_recipe("debug", []).model.vit_config()
    quantize_static(
        exported,
        tmp_path / "int8.onnx",
        Noise((2, config.in_chans, config.img_size, config.img_size)),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=linear,
    )
    flop, int8, unknown = count_operations(tmp_path / "int8.onnx")
    assert (flop, unknown) == (formula(), "")
    head = 2 * 64 * 8
    assert int8 == in_8_bits() - head
