"""Engines of TensorRT: everything around the package, which itself is a stand-in here."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from typer.testing import CliRunner

import export.tensorrt_export as module
from export.contract_cli import contract as contract_command
from export.engine_file import Batches, read_record, record_of
from export.onnx_export import ExportReport, export_onnx
from export.tensorrt_backend import EngineClassifier, find
from export.tensorrt_backend import open as open_engine
from export.tensorrt_export import export_engines
from export.tensorrt_network import _as_bf16, to_bf16, to_symmetric_int8
from export.tensorrt_package import gpu_for, load_tensorrt
from export.variants import Faces
from fer_app.classifier import Classifier, OnnxClassifier
from fer_app.errors import (
    AccuracyLostError,
    EngineBuildError,
    ExportError,
    InputError,
    MissingExtraError,
    ModelContractError,
    ModelError,
    ModelIntegrityError,
    ModelNotFoundError,
    ParityError,
    ProviderUnavailableError,
)
from fer_app.recognizer import Recognizer
from tests.export.fake_tensorrt import GPU, State, install
from tests.export.test_cli import run as export
from tests.export.test_onnx_export import CONV, write_checkpoint
from tests.training.miniature import write_mini_ferplus
from training.data.ferplus import load_ferplus
from training.data.locate import locate
from training.evaluation import file_sha256, open_classifier

BATCHES = Batches(2, 3, 5)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> State:
    return install(monkeypatch)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "a.safetensors", [])


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> ExportReport:
    return export_onnx(checkpoint, checkpoint.with_name("a.onnx"))


@pytest.fixture
def exported_before(exported: ExportReport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the export to ONNX: it takes seconds, is tested elsewhere, and torch would look for the GPU."""

    def copy(checkpoint: Path, path: Path) -> ExportReport:
        shutil.copy(exported.path, path)
        return exported

    monkeypatch.setattr(module, "export_onnx", copy)


@pytest.fixture
def engine(tmp_path: Path, checkpoint: Path, tensorrt: State, exported_before: None) -> Path:
    (made,) = export_engines(checkpoint, tmp_path / "out", ["fp32"], batches=BATCHES)
    tensorrt.batches.clear()
    return made.path


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 50, 44, 3), np.uint8)


def test_profile_arithmetic() -> None:
    assert Batches.parse("1, 8,128") == (1, 8, 128)
    for text in ("1,8", "0,1,2", "2,1,3", "1,3,2", "a,1,2", "1,2,3,4", "", "1,-2,3"):
        with pytest.raises(InputError, match="no batch sizes"):
            Batches.parse(text)
    assert list(BATCHES.cut(0, 9)) == []
    assert list(BATCHES.cut(1, 9)) == [(0, 1, 2)]
    assert list(BATCHES.cut(11, 9)) == [(0, 5, 5), (5, 10, 5), (10, 11, 2)]
    assert list(BATCHES.cut(7, 3)) == [(0, 3, 3), (3, 6, 3), (6, 7, 2)]
    assert list(BATCHES.cut(3, 1)) == [(0, 2, 2), (2, 3, 2)]


def test_an_engine_and_what_lies_beside_it(
    tmp_path: Path, checkpoint: Path, tensorrt: State, exported_before: None
) -> None:
    out = tmp_path / "made" / "here"
    told: list[str] = []
    engines = export_engines(checkpoint, out, ["fp32", "fp16"], batches=BATCHES, tell=told.append)
    names = ["model.fp16.engine", "model.fp16.engine.json", "model.fp32.engine", "model.fp32.engine.json"]
    assert sorted(path.name for path in out.iterdir()) == [*names, "timing.cache"]
    assert tensorrt.profiles == [("images", ((2, 1, 48, 48), (3, 1, 48, 48), (5, 1, 48, 48)))] * 2
    assert tensorrt.cleared == ["tf32"]  # float32 is float32, and 16 bits are in the network's types
    assert tensorrt.caches == [b"", b"timings"]  # the second build profits from the first
    assert told == [f"fp32: {out / names[2]}", f"fp16: {out / names[0]}"]
    for made in engines:
        record = read_record(made.path)
        assert record == made.record
        assert (record.tensorrt, record.gpu, record.capability) == ("10.13.2.6", GPU, "9.0")
        assert record.sha256 == file_sha256(made.path)
        assert record.checkpoint_sha256 == file_sha256(checkpoint)
        assert set(record.differences) == {2, 3, 5}
        assert record.images_per_s > 0
    assert [made.record.contract.precision for made in engines] == ["fp32", "fp16"]
    assert max(engines[0].record.differences.values()) < 1e-4 < max(engines[1].record.differences.values())
    shown = CliRunner().invoke(contract_command, ["show", str(engines[1].path)])
    assert f"TensorRT 10.13.2.6, {GPU}, batches 2 / 3 / 5" in shown.stdout


def test_the_command(tmp_path: Path, checkpoint: Path, tensorrt: State, exported_before: None) -> None:
    data = write_mini_ferplus(tmp_path / "data", per_class=12)
    out = tmp_path / "out"
    options = (
        "--format",
        "tensorrt",
        "--precision",
        "int8,fp16",
        "--batches",
        "1,4,8",
        "--data",
        data,
        "--max-drop",
        40,
    )
    result = export(checkpoint, "-o", out, *options)
    assert result.exit_code == 0, result.output
    assert "| model.int8.engine | int8 |" in result.stdout
    assert f"TensorRT 10.13.2.6, {GPU}: the engines run there alone" in result.stdout
    written = json.loads((out / "model.int8.engine.json").read_text(encoding="utf-8"))
    assert written["record_version"] == 1
    assert written["batches"] == {"least": 1, "usual": 4, "most": 8}
    assert 0 <= written["contract"]["metrics"]["ferplus_valid_accuracy"] <= 1
    for mistake in (["--batches", "4,1,8"], ["--precision", "int4"]):
        assert export(checkpoint, "-o", out, "--format", "tensorrt", *mistake).exit_code == 2
    assert export(checkpoint, "-o", tmp_path / "a.onnx", "--format", "tensorrt").exit_code == 2
    assert export(checkpoint, "-o", tmp_path / "a.onnx", "--precision", "bf16").exit_code == 2
    refused = export(checkpoint, "-o", out, "--format", "tensorrt", "--precision", "int8")
    assert isinstance(refused.exception, ExportError)


def test_an_engine_is_a_classifier(engine: Path, exported: ExportReport, tensorrt: State, astronaut_path: Path) -> None:
    served = OnnxClassifier(exported.path, device="cpu")
    ours = EngineClassifier(engine, device="cuda", batch_size=4)
    assert isinstance(ours, Classifier)
    assert (ours.device, ours.contract, ours.note) == ("cuda:0", served.contract, "TensorRT 10.13.2.6, fp32")
    for count, batches in ((0, []), (1, [2]), (4, [4]), (9, [4, 4, 2])):
        tensorrt.batches.clear()
        np.testing.assert_allclose(ours.logits(crops(count)), served.logits(crops(count)), atol=1e-5)
        assert tensorrt.batches == batches
    np.testing.assert_allclose(ours.probs(crops(3)), served.probs(crops(3)), atol=1e-5)
    faces = Recognizer(engine, backend="tensorrt", detect=False, batch_size=4).predict(astronaut_path)
    expected = Recognizer(exported.path, device="cpu", detect=False).predict(astronaut_path)
    np.testing.assert_allclose(faces.probs, expected.probs, atol=1e-5)
    np.testing.assert_allclose(open_classifier(engine).logits(crops(7)), served.logits(crops(7)), atol=1e-5)


@pytest.mark.parametrize(
    ("refuses", "message"),
    [
        ("parse", r"TensorRT 10\.13\.2\.6 cannot read the network: error 0: no such operator"),
        ("build", "cannot build a fp32 engine on NVIDIA Abacus: no implementation for the node MatMul$"),
    ],
)
def test_what_tensorrt_refuses(
    tmp_path: Path, checkpoint: Path, tensorrt: State, exported_before: None, refuses: str, message: str
) -> None:
    tensorrt.refuses = refuses
    with pytest.raises(EngineBuildError, match=message):
        export_engines(checkpoint, tmp_path / "out", ["fp32"])
    assert list((tmp_path / "out").iterdir()) == []


def test_an_engine_that_answers_otherwise_is_not_left(
    tmp_path: Path, checkpoint: Path, tensorrt: State, exported_before: None
) -> None:
    tensorrt.off_by = 0.01
    with pytest.raises(ParityError, match=r"differ from the checkpoint's by up to 0\.01"):
        export_engines(checkpoint, tmp_path / "out", ["fp32"], batches=BATCHES)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["timing.cache"]
    export_engines(checkpoint, tmp_path / "out", ["fp16"], batches=BATCHES)


def test_an_engine_that_lost_too_much_is_not_left(
    tmp_path: Path, checkpoint: Path, tensorrt: State, exported_before: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = locate([write_mini_ferplus(tmp_path / "data", per_class=3)]).need_ferplus()
    faces = Faces("ferplus_valid", "FERPlus valid", load_ferplus(base, "valid"))
    monkeypatch.setattr(
        EngineClassifier, "logits", lambda self, pictures: np.eye(8, dtype=np.float32)[[7] * len(pictures)]
    )
    with pytest.raises(AccuracyLostError, match="more than -100 points are lost; not written"):
        export_engines(checkpoint, tmp_path / "out", ["fp32"], batches=BATCHES, faces=faces, most_lost=-1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["timing.cache"]


def test_a_timing_cache_of_another_gpu_is_begun_anew(
    tmp_path: Path, checkpoint: Path, tensorrt: State, exported_before: None
) -> None:
    (tmp_path / "timing.cache").write_bytes(b"of another GPU")
    tensorrt.foreign_cache = True
    told: list[str] = []
    export_engines(checkpoint, tmp_path, ["fp32"], batches=BATCHES, tell=told.append)
    assert tensorrt.caches == [b"of another GPU", b""]
    assert told[-1].endswith("timing.cache is of another GPU or version of TensorRT: begun anew")
    assert (tmp_path / "timing.cache").read_bytes() == b"timings"


def test_another_version_or_gpu_says_what_to_do(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, version="10.14.0.1")
    with pytest.raises(
        ProviderUnavailableError,
        match=r"built with TensorRT 10\.13\.2\.6, and 10\.14\.0\.1 is installed: pip install tensorrt==10\.13\.2\.6, "
        "or build it again here: fer export",
    ):
        EngineClassifier(engine)
    install(monkeypatch)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda ordinal: "NVIDIA Slate")
    with pytest.raises(ProviderUnavailableError, match=r"for NVIDIA Abacus \(.* 9\.0\), and cuda:0 is NVIDIA Slate"):
        EngineClassifier(engine)


def test_files_that_cannot_be_run(engine: Path, tensorrt: State, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"runs \.engine files, not .*a\.onnx; fer export"):
        find("a.onnx")
    with pytest.raises(ModelNotFoundError, match="no engine at"):
        find(tmp_path / "none.engine")
    with pytest.raises(ModelNotFoundError, match="computes in fp32, not in fp16"):
        open_engine(engine, device="auto", precision="fp16", batch_size=1, threads=None)
    with pytest.raises(InputError, match="batch_size"):
        EngineClassifier(engine, batch_size=0)
    with pytest.raises(ProviderUnavailableError, match="run on NVIDIA GPUs"):
        EngineClassifier(engine, device="cpu")
    with pytest.raises(ProviderUnavailableError, match="cuda:1: torch sees 1 CUDA devices"):
        EngineClassifier(engine, device="cuda:1")
    ours = EngineClassifier(engine)
    tensorrt.refuses = "run"
    with pytest.raises(ModelError, match="TensorRT failed on cuda:0 with a batch of 2"):
        ours.logits(crops(1))
    tensorrt.refuses = "load"
    with pytest.raises(ModelError, match="cannot load the engine: version tag does not match"):
        EngineClassifier(engine)
    content = engine.read_bytes()
    engine.write_bytes(content[:-1])
    with pytest.raises(ModelIntegrityError, match="damaged, or not the engine that"):
        EngineClassifier(engine)
    engine.write_bytes(content)
    record = record_of(engine)
    text = record.read_text(encoding="utf-8")
    for old, new, message in (
        ('"record_version": 1', '"record_version": 2', "has version 2, this program reads 1"),
        ('"gpu"', '"cpu"', "no contract of an engine"),
        ("{", "[", "no contract of an engine"),
        ('"img_size"', '"img_sighs"', "unknown fields: img_sighs"),
    ):
        record.write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(ModelContractError, match=message):
            EngineClassifier(engine)
    record.unlink()
    with pytest.raises(ModelContractError, match="has no contract beside it"):
        EngineClassifier(engine)


def test_without_the_package_or_a_gpu(
    tmp_path: Path, checkpoint: Path, tensorrt: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(EngineBuildError, match=r"built on the GPU that runs them: .*torch sees 0 CUDA devices"):
        export_engines(checkpoint, tmp_path / "out", ["fp32"])
    install(monkeypatch, version="8.6.1")
    with pytest.raises(MissingExtraError, match=r'tensorrt 8\.6\.1 is too old: pip install "tensorrt-cu\d+>=10\.0"'):
        load_tensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    refused = export(checkpoint, "-o", tmp_path / "out", "--format", "tensorrt")
    assert isinstance(refused.exception, MissingExtraError)
    assert 'package tensorrt is not installed: pip install "tensorrt-cu' in str(refused.exception)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError):
        gpu_for("toaster")


@pytest.mark.parametrize("overrides", [[], CONV], ids=["patch", "conv"])
def test_bf16_network(tmp_path: Path, overrides: list[str]) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.safetensors", overrides)
    export_onnx(checkpoint, tmp_path / "a.onnx")
    to_bf16(tmp_path / "a.onnx", tmp_path / "b.onnx")
    onnx.checker.check_model(str(tmp_path / "b.onnx"), full_check=True)
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "b.onnx").graph.initializer}
    assert TensorProto.BFLOAT16 in kinds
    assert TensorProto.FLOAT16 not in kinds
    images = np.random.default_rng(0).normal(size=(1, 1, 48, 48)).astype(np.float32)
    (expected,) = ReferenceEvaluator(str(tmp_path / "a.onnx")).run(["logits"], {"images": images})
    (logits,) = ReferenceEvaluator(str(tmp_path / "b.onnx")).run(["logits"], {"images": images})
    assert logits.dtype == np.float32
    assert 1e-4 < np.abs(logits - expected).max() < 0.1


def test_rounding_to_bf16() -> None:
    import torch

    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    values[:4] = [1 + 2**-8, 1 + 3 * 2**-8, -(2**-130), 3e38]  # between two numbers, tiny, huge
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(numpy_helper.to_array(_as_bf16(values, "x")).astype(np.float32), expected)


def test_int8_network_is_signed_and_around_zero(tmp_path: Path, exported: ExportReport) -> None:
    images = np.random.default_rng(0).normal(size=(32, 1, 48, 48)).astype(np.float32)
    to_symmetric_int8(exported.path, tmp_path / "b.onnx", images, "minmax")
    model = onnx.load(tmp_path / "b.onnx")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    points = [
        tensors[node.input[2]] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert points
    for point in points:
        assert point.data_type == TensorProto.INT8
        assert not numpy_helper.to_array(point).any()
    assert any(len(numpy_helper.to_array(point).shape) == 1 for point in points)  # a scale a channel


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path, checkpoint: Path, exported: ExportReport) -> None:
    pytest.importorskip("tensorrt")
    served = OnnxClassifier(exported.path, device="cpu")
    for made in export_engines(checkpoint, tmp_path, ["fp32", "fp16", "bf16"], batches=BATCHES):
        ours = EngineClassifier(made.path)
        assert ours.contract == served.contract.replace(precision=made.record.contract.precision)
        for count in (0, 1, 3, 9):
            np.testing.assert_allclose(ours.logits(crops(count)), served.logits(crops(count)), atol=0.2)
