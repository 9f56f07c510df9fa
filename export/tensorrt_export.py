"""A checkpoint as engines of TensorRT: each built, held against the checkpoint, scored, and refused where it lost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from export.engine_file import Batches, EngineRecord, record_of
from export.onnx_export import export_onnx
from export.precision import CALIBRATIONS, to_fp16, write_contract
from export.tensorrt_backend import EngineClassifier
from export.tensorrt_engine import build_engine
from export.tensorrt_network import to_bf16, to_symmetric_int8
from export.tensorrt_package import Gpu, gpu_for, load_tensorrt
from export.threshold import own_threshold
from export.variants import FP16_TOLERANCE, Faces, calibration_images, metrics_of, need_accuracy
from fer_app.classifier import OnnxClassifier
from fer_app.contract import Contract, Precision
from fer_app.errors import EngineBuildError, ExportError, ParityError, ProviderUnavailableError
from fer_app.model_choice import MOST_LOST
from training.evaluation import evaluate, file_sha256, load_classifier
from training.metrics import ClassificationReport

ENGINES: Final[dict[Precision, str]] = {name: f"model.{name}.engine" for name in ("fp32", "fp16", "bf16", "int8")}
TIMING_CACHE: Final = "timing.cache"
TOLERANCES: Final[dict[Precision, float]] = {"fp32": 1e-3, "fp16": FP16_TOLERANCE, "bf16": 0.2}
"""Largest difference of a logit on noise; 8 bits are judged by their accuracy alone."""

_SPEED_RUNS = 20


@dataclass(frozen=True)
class Engine:
    """One engine that was made.

    Attributes:
        path: where it is.
        bytes: its size.
        record: what lies beside it.
        report: on the faces that were given; None without any.
    """

    path: Path
    bytes: int
    record: EngineRecord
    report: ClassificationReport | None


def export_engines(
    checkpoint: Path,
    folder: Path,
    precisions: Sequence[Precision],
    *,
    batches: Batches = Batches(),  # noqa: B008 - a tuple of numbers
    device: str = "auto",
    faces: Faces | None = None,
    most_lost: float = MOST_LOST,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Engine]:
    """Build engines of a checkpoint, on this machine's GPU and for it; an engine that fails is not left behind.

    Args:
        checkpoint: a `.safetensors` classifier.
        folder: where the engines go; it is made if need be. It keeps a timing cache as well.
        precisions: of the engines.
        batches: what they take.
        device: the GPU.
        faces: what accuracy is measured on; int8 needs them.
        most_lost: of accuracy, a share, from the float32 network to an engine.
        tell: called with a line about what is being done.

    Raises:
        MissingExtraError: the package `tensorrt` is not installed.
        EngineBuildError: there is no GPU, or TensorRT refuses the network.
        CheckpointError: the checkpoint cannot be read or is no classifier.
        ParityError: outputs differ too much.
        AccuracyLostError: an engine scores worse by more than `most_lost`.
        ExportError: a conversion failed, int8 was asked for without faces, or a file cannot be written.
    """
    if "int8" in precisions and (faces is None or faces.calibration is None or faces.choice is None):
        raise ExportError("int8 is calibrated on faces: give --data with a set that has training faces")
    version: str = load_tensorrt().__version__
    try:
        gpu = gpu_for(device)
    except ProviderUnavailableError as error:
        raise EngineBuildError(f"engines are built on the GPU that runs them: {error}") from error
    model, _ = load_classifier(checkpoint)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error
    with tempfile.TemporaryDirectory() as name:
        full = Path(name) / "model.onnx"
        contract = export_onnx(checkpoint, full).contract
        before = None if faces is None else evaluate(OnnxClassifier(full, device="cpu"), faces.scored)
        maker = _Maker(checkpoint, model, full, contract, batches, gpu, version, faces, before, most_lost, tell)
        return [maker.make(precision, folder) for precision in precisions]


@dataclass(frozen=True)
class _Maker:
    """What every engine is made from and held against; see `export_engines`."""

    checkpoint: Path
    model: nn.Module
    full: Path
    contract: Contract
    batches: Batches
    gpu: Gpu
    tensorrt: str
    faces: Faces | None
    before: ClassificationReport | None
    most_lost: float
    tell: Callable[[str], None]

    def make(self, precision: Precision, folder: Path) -> Engine:
        """Build one engine under another name, and give it its own when it has passed."""
        target = folder / ENGINES[precision]
        self.tell(f"{precision}: {target}")
        contract = self.contract.replace(precision=precision)
        network = self._network(precision, contract)
        waiting = folder / f".{target.name}"
        try:
            plan = build_engine(
                network, contract, self.batches, self.gpu, timing_cache=folder / TIMING_CACHE, tell=self.tell
            )
            waiting.write_bytes(plan)
            return self._publish(waiting, target, self._measured(waiting, target, contract))
        except OSError as error:
            raise ExportError(f"cannot write {folder}: {error.strerror}") from error
        finally:
            waiting.unlink(missing_ok=True)
            record_of(waiting).unlink(missing_ok=True)

    def _network(self, precision: Precision, contract: Contract) -> Path:
        """Return an ONNX file of a precision, as TensorRT takes it."""
        if precision == "fp32":
            return self.full
        network = self.full.with_name(f"{precision}.onnx")
        if precision == "int8":
            self._calibrate(network, contract)
        else:
            (to_fp16 if precision == "fp16" else to_bf16)(self.full, network)
        return network

    def _calibrate(self, network: Path, contract: Contract) -> None:
        """Write the 8-bit network whose ranges do best on the faces that choose, tried on the CPU."""
        assert self.faces is not None
        assert self.faces.calibration is not None
        assert self.faces.choice is not None
        images = calibration_images(self.faces.calibration, contract)
        best = -1.0
        for calibration in CALIBRATIONS:
            candidate = network.with_suffix(f".{calibration}")
            to_symmetric_int8(self.full, candidate, images, calibration)
            write_contract(candidate, contract)
            accuracy = evaluate(OnnxClassifier(candidate, device="cpu"), self.faces.choice).accuracy
            if accuracy > best:
                best = accuracy
                candidate.replace(network)

    def _measured(self, engine: Path, target: Path, contract: Contract) -> Engine:
        """Run an engine: against the checkpoint, on the faces, and against the clock."""
        record = EngineRecord(
            contract=contract,
            tensorrt=self.tensorrt,
            gpu=self.gpu.name,
            capability=self.gpu.capability,
            batches=self.batches,
            sha256=file_sha256(engine),
            differences={},
            images_per_s=0.0,
            checkpoint_sha256=file_sha256(self.checkpoint),
        )
        record.write(engine)
        served = EngineClassifier(engine, device=f"cuda:{self.gpu.ordinal}")
        differences = self._differences(served)
        worst, tolerance = max(differences.values()), TOLERANCES.get(contract.precision)
        if tolerance is not None and not worst <= tolerance:
            raise ParityError(
                f"{target}: logits differ from the checkpoint's by up to {worst:.3g}, more than {tolerance:g}; "
                "not written"
            )
        report = None
        if self.faces is not None and self.before is not None:
            if contract.precision == "int8":
                contract = own_threshold(contract, served, self.faces.choice)
                served.record = replace(record, contract=contract)
            report = evaluate(served, self.faces.scored)
            need_accuracy(report, self.before, self.faces, self.most_lost, target)
            contract = contract.replace(metrics=metrics_of(report, self.faces.name))
        values = record.__dict__ | {
            "contract": contract,
            "differences": differences,
            "images_per_s": round(self._speed(served), 1),
        }
        return Engine(target, engine.stat().st_size, EngineRecord(**values), report)

    def _differences(self, served: EngineClassifier) -> dict[int, float]:
        """Compare with the checkpoint on noise: batch size to largest difference of a logit."""
        differences = {}
        for batch in sorted(set(self.batches)):
            images = self._noise(batch)
            with torch.inference_mode():
                expected = self.model(torch.from_numpy(images)).numpy()
            differences[batch] = float(np.abs(served.run(images, batch) - expected).max())
        return differences

    def _speed(self, served: EngineClassifier) -> float:
        """Return images a second with the usual batch, copies to and from the GPU included."""
        images = self._noise(self.batches.usual)
        served.run(images, len(images))  # warms up
        begin = time.perf_counter()
        for _ in range(_SPEED_RUNS):
            served.run(images, len(images))
        return _SPEED_RUNS * len(images) / (time.perf_counter() - begin)

    def _noise(self, batch: int) -> np.ndarray:
        shape = (batch, self.contract.in_chans, self.contract.img_size, self.contract.img_size)
        return np.random.default_rng(0).standard_normal(shape, np.float32)

    def _publish(self, waiting: Path, target: Path, made: Engine) -> Engine:
        """Give an engine its name, and put its record beside it."""
        record_of(target).unlink(missing_ok=True)  # never an engine beside another one's record
        waiting.replace(target)
        made.record.write(target)
        return made


def engine_table(engines: Sequence[Engine]) -> str:
    """Return a Markdown table, a row an engine."""
    lines = [
        "| file | precision | MB | batches | largest difference of a logit | accuracy % | faces/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in engines:
        record = one.record
        cells = (
            one.path.name,
            record.contract.precision,
            f"{one.bytes / 1e6:.1f}",
            " / ".join(map(str, record.batches)),
            f"{max(record.differences.values()):.1e}",
            "" if one.report is None else f"{100 * one.report.accuracy:.2f}",
            f"{record.images_per_s:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    if engines:
        first = engines[0].record
        lines += ["", f"TensorRT {first.tensorrt}, {first.gpu}: the engines run there alone"]
    return "\n".join(lines)
