"""Float32 files that keep 16-bit weights: half the size, the same bits of every answer."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.half_storage import keep_in_16_bits
from export.onnx_export import export_onnx
from fer_app.session import open_session
from tests.export.test_onnx_export import CONV, write_checkpoint
from training.checkpoint import load_checkpoint, save_checkpoint

WIDE = ["model.img_size=48", "model.patch_size=8"]


def answers(file: Path, side: int) -> list[np.ndarray]:
    images = np.random.default_rng(3).standard_normal((5, 1, side, side), np.float32)
    return open_session(file, device="cpu").run({"images": images})


def exported(folder: Path, overrides: list[str], *, half: bool) -> tuple[Path, dict[str, torch.Tensor], int]:
    checkpoint = write_checkpoint(folder / "a.safetensors", overrides)
    weights, info = load_checkpoint(checkpoint)
    if half:
        save_checkpoint(checkpoint, weights, info, dtype=torch.float16)
    export_onnx(checkpoint, folder / "a.onnx")
    assert info.contract is not None
    return folder / "a.onnx", load_checkpoint(checkpoint)[0], info.contract.img_size


@pytest.mark.parametrize("overrides", [[], WIDE, CONV], ids=["patch", "wide", "conv"])
def test_the_file_is_smaller_and_answers_the_same(tmp_path: Path, overrides: list[str]) -> None:
    file, weights, side = exported(tmp_path, overrides, half=True)
    contract, before, size = onnx.load(file).metadata_props[0], answers(file, side), file.stat().st_size
    saved = keep_in_16_bits(file, weights)
    assert file.stat().st_size == size - saved < 0.75 * size
    for ours, theirs in zip(answers(file, side), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    proto = onnx.load(file)
    assert proto.metadata_props[0] == contract
    kernels = [one for one in proto.graph.initializer if len(one.dims) == 4 and np.prod(one.dims) >= 256]
    assert kernels
    assert all(one.data_type == onnx.TensorProto.FLOAT16 for one in kernels)  # folded ones too


def test_weights_that_need_32_bits_keep_them(tmp_path: Path) -> None:
    file, weights, side = exported(tmp_path, CONV, half=False)
    before = answers(file, side)
    keep_in_16_bits(file, weights)
    for ours, theirs in zip(answers(file, side), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    halves = [one for one in onnx.load(file).graph.initializer if one.data_type == onnx.TensorProto.FLOAT16]
    assert not [one.name for one in halves if one.name.endswith("weight.half")]
