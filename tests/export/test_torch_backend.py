"""The backend `torch` computes what the exported file does."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import export.torch_backend as module
from export.onnx_export import export_onnx
from export.torch_backend import TorchBackendClassifier, find
from fer_app.classifier import Classifier, OnnxClassifier
from fer_app.cli import app
from fer_app.errors import CheckpointError, InputError, ModelError, ModelNotFoundError, ProviderUnavailableError
from fer_app.recognizer import Recognizer
from tests.export.test_onnx_export import CONV, write_checkpoint
from training.checkpoint import CheckpointInfo, bundled_checkpoint, save_checkpoint


@pytest.fixture(scope="module", params=[[], CONV], ids=["patch", "conv"])
def pair(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OnnxClassifier]:
    """A checkpoint and its exported file."""
    folder = tmp_path_factory.mktemp("pair")
    checkpoint = write_checkpoint(folder / "a.safetensors", request.param)
    export_onnx(checkpoint, folder / "a.onnx")
    return checkpoint, OnnxClassifier(folder / "a.onnx", device="cpu")


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 50, 44, 3), np.uint8)


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_float32_is_the_onnx_file(pair, count: int) -> None:
    checkpoint, served = pair
    ours = TorchBackendClassifier(checkpoint, device="cpu", batch_size=4)
    assert isinstance(ours, Classifier)
    assert (ours.device, ours.contract) == ("cpu", served.contract)
    expected = served.logits(crops(count))
    assert ours.logits(crops(count)).dtype == np.float32
    np.testing.assert_allclose(ours.logits(crops(count)), expected, atol=1e-4)
    np.testing.assert_allclose(ours.probs(crops(count)), served.probs(crops(count)), atol=1e-4)


def test_bf16_is_close_and_another_arithmetic(pair) -> None:
    checkpoint, served = pair
    ours = TorchBackendClassifier(checkpoint, device="cpu", precision="bf16")
    assert ours.contract == served.contract.replace(precision="bf16")
    difference = np.abs(ours.logits(crops(9)) - served.logits(crops(9))).max()
    assert 1e-4 < difference < 0.05
    assert ours.note == "PyTorch, bf16"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
def test_a_compiled_network_computes_the_same(pair) -> None:
    checkpoint, served = pair
    ours = TorchBackendClassifier(checkpoint, device="cpu", compiled=True, batch_size=4)
    for count in (9, 1, 3):
        np.testing.assert_allclose(ours.logits(crops(count)), served.logits(crops(count)), atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-2), ("bf16", 0.1), ("auto", 0.1)])
def test_on_a_gpu(pair, precision: str, tolerance: float) -> None:
    checkpoint, served = pair
    ours = TorchBackendClassifier(checkpoint, device="cuda", precision=precision, batch_size=4)
    assert ours.device == "cuda:0"
    assert ours.contract.precision == ("bf16" if precision == "auto" else precision)
    for count in (9, 1):
        np.testing.assert_allclose(ours.logits(crops(count)), served.logits(crops(count)), atol=tolerance)


def test_the_bundled_model(astronaut_path: Path) -> None:
    assert find("default") == find("mimic_hybrid_ferplus") == bundled_checkpoint()
    faces = Recognizer(backend="torch", device="cpu").predict(astronaut_path)
    expected = Recognizer(device="cpu", precision="fp32").predict(astronaut_path)
    assert faces.label(0) == "happiness"
    np.testing.assert_allclose(faces.probs, expected.probs, atol=1e-3)


def test_at_the_command_line(tmp_path: Path, astronaut_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", [])
    options = ["--backend", "torch", "-m", str(checkpoint), "--device", "cpu", "--precision", "bf16", "-f", "jsonl"]
    done = CliRunner().invoke(app, ["predict", str(astronaut_path), *options])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["face"] == 0
    assert done.stderr == ""


def test_what_cannot_be_opened(tmp_path: Path, pair, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, _ = pair
    with pytest.raises(ModelNotFoundError, match=r"runs \.safetensors checkpoints, not .*tiny\.onnx"):
        find(tiny_model)
    with pytest.raises(ModelNotFoundError, match="no checkpoint at"):
        find(tmp_path / "none.safetensors")
    save_checkpoint(tmp_path / "b.safetensors", {"x": torch.zeros(1)}, CheckpointInfo(kind="encoder", architecture={}))
    with pytest.raises(CheckpointError, match="fine-tune it first"):
        TorchBackendClassifier(tmp_path / "b.safetensors", device="cpu")
    with pytest.raises(InputError, match="the backend torch has no int8; it has fp32, fp16, bf16"):
        TorchBackendClassifier(checkpoint, device="cpu", precision="int8")
    with pytest.raises(InputError, match="batch_size"):
        TorchBackendClassifier(checkpoint, batch_size=0)
    with pytest.raises(ProviderUnavailableError, match="tensorrt"):
        TorchBackendClassifier(checkpoint, device="tensorrt")
    asked: list[object] = []
    monkeypatch.setattr(module.torch.cuda, "device", lambda device: contextlib.nullcontext(asked.append(device)))
    monkeypatch.setattr(module.torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert module._arithmetic("auto", torch.device("cuda", 0))[0] == "fp32"
    with pytest.raises(ProviderUnavailableError, match="cuda:0 has no bf16: use --precision fp16 or fp32"):
        module._arithmetic("bf16", torch.device("cuda", 0))
    assert asked == 2 * [torch.device("cuda", 0)]  # of that one, whichever is the current one


def test_float32_is_float32_on_gpus_too(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    TorchBackendClassifier(pair[0], device="cpu")
    assert not torch.backends.cudnn.allow_tf32


def test_a_failing_run_is_a_model_error(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    ours = TorchBackendClassifier(pair[0], device="cpu")
    monkeypatch.setattr(ours._network, "forward", no_memory)
    with pytest.raises(ModelError, match=r"PyTorch failed on cpu: OutOfMemoryError: CUDA out of memory\..* 2 GiB$"):
        ours.logits(crops(1))
