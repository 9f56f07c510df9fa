"""`fer bench` counts the arithmetic of a vision transformer as the formula has it, in every arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.onnx_export import export_onnx
from export.precision import to_dynamic_int8, to_fp16, to_static_int8
from fer_app.bench.operations import count_operations
from tests.export.test_onnx_export import TOKEN, write_checkpoint
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
    stem = patches * width * config.in_chans * config.patch_size**2
    head_and_evidence = (1 + patches) * width * 8
    return 2 * (blocks + stem + head_and_evidence)


def test_float32(exported: Path) -> None:
    assert count_operations(exported) == (formula(), 0, "")


def in_8_bits() -> int:
    """Of the formula: the linear layers of the blocks and behind them; the products of attention stay in float32."""
    config = load_recipe("debug", ['stages=["finetune"]', *PLAIN_HEAD]).model.vit_config()
    tokens, width = (config.img_size // config.patch_size) ** 2 + 1, config.embed_dim
    return 2 * (config.depth * 12 * tokens * width**2 + tokens * width * 8)


def test_fp16(tmp_path: Path) -> None:
    """Counted on a CPU, where it is computed in float32; here of a network without evidence."""
    export_onnx(write_checkpoint(tmp_path / "a.safetensors", TOKEN), tmp_path / "a.onnx")
    to_fp16(tmp_path / "a.onnx", tmp_path / "fp16.onnx")
    counted = count_operations(tmp_path / "fp16.onnx")
    assert counted == count_operations(tmp_path / "a.onnx")
    assert counted.unknown == ""


def test_dynamic_int8(exported: Path, tmp_path: Path) -> None:
    """As MatMulInteger in the file."""
    to_dynamic_int8(exported, tmp_path / "int8.onnx")
    assert count_operations(tmp_path / "int8.onnx") == (formula(), in_8_bits(), "")


def test_static_int8(exported: Path, tmp_path: Path) -> None:
    """As float32 between two roundings in the file: what is done in 8 bits shows only when it runs."""
    config = load_recipe("debug", []).model.vit_config()
    noise = np.random.default_rng(0).standard_normal((4, config.in_chans, config.img_size, config.img_size))
    to_static_int8(exported, tmp_path / "int8.onnx", noise.astype(np.float32), "minmax")
    flop, int8, unknown = count_operations(tmp_path / "int8.onnx")
    assert (flop, unknown) == (formula(), "")
    assert in_8_bits() < int8 <= flop  # the stem as well
