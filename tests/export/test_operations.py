"""`fer bench` counts the arithmetic of a vision transformer as the formula has it, in every arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

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
    flop, unknown = count_operations(exported)
    assert unknown == ""
    assert flop == formula()


def test_int8(exported: Path, tmp_path: Path) -> None:
    quantize_dynamic(exported, tmp_path / "int8.onnx", weight_type=QuantType.QInt8, per_channel=True)
    assert count_operations(tmp_path / "int8.onnx") == count_operations(exported)
