"""A classifier in the arithmetics that were asked for: each made, scored again, and refused where it lost too much."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from export.onnx_export import PARITY_TOLERANCE, data_path, export_onnx, parity, put_in_place, size_of
from export.precision import CALIBRATIONS, to_dynamic_int8, to_fp16, to_static_int8, write_contract
from export.threshold import own_threshold
from fer_app.classifier import OnnxClassifier
from fer_app.contract import Contract, Precision
from fer_app.errors import AccuracyLostError, ExportError, ParityError
from fer_app.model_choice import MOST_LOST
from fer_app.preprocess import to_input
from fer_app.session import open_session
from training.data.image_set import ImageSet
from training.evaluation import crops_of, evaluate, file_sha256, load_classifier
from training.metrics import ClassificationReport

FILES: Final[dict[Precision, str]] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
FP16_TOLERANCE: Final = 0.05
"""Largest difference of a logit that 16 bits may make on noise; 8 bits are judged by their accuracy alone."""

# Speed is the median of so many passes over so many batches, in turns with float32.
_SPEED_ROUNDS, _SPEED_BATCHES, _SPEED_BATCH = 5, 4, 32
_CALIBRATION_FACES = 1024


@dataclass(frozen=True)
class Faces:
    """What files are measured on.

    Attributes:
        name: of the set and its split, as metrics begin: `ferplus_valid`.
        title: the same for people.
        scored: of which accuracy is reported.
        calibration: typical faces, which are not scored; ranges of 8-bit numbers come from them. None without any.
        choice: which decide between ways of calibrating, and of 8-bit files what is uncertain. None without any.
    """

    name: str
    title: str
    scored: ImageSet
    calibration: ImageSet | None = None
    choice: ImageSet | None = None


@dataclass(frozen=True)
class Variant:
    """One file that was made.

    Attributes:
        precision: its arithmetic.
        method: how it came about, in words.
        path: where it is.
        bytes: its size.
        sha256: of its bytes.
        differences: batch size to largest difference of a logit from the checkpoint's.
        images_per_s: on this machine's CPU, 32 faces at a time; median.
        ratio: of that to the float32 file's, medians of passes taken in turns.
        report: on the faces that were given; None without any.
        contract: as in the file.
    """

    precision: Precision
    method: str
    path: Path
    bytes: int
    sha256: str
    differences: dict[int, float]
    images_per_s: float
    ratio: float
    report: ClassificationReport | None
    contract: Contract


def export_variants(
    checkpoint: Path,
    targets: dict[Precision, Path],
    *,
    faces: Faces | None = None,
    most_lost: float = MOST_LOST,
    tolerance: float = PARITY_TOLERANCE,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Variant]:
    """Write a checkpoint as ONNX files of several precisions, or none of them.

    Args:
        checkpoint: a `.safetensors` classifier.
        targets: where each asked-for precision goes; the folders must exist.
        faces: what accuracy is measured on; int8 needs them.
        most_lost: of accuracy, a share, from the checkpoint to a file.
        tolerance: largest difference of a logit from the checkpoint's for float32.
        tell: called with a line about what is being done.

    Returns:
        One a file, in the order of `targets`. With faces, each contract's metrics are the file's own.

    Raises:
        CheckpointError: the checkpoint cannot be read or is no classifier.
        ParityError: outputs differ too much.
        AccuracyLostError: a file scores worse by more than `most_lost`.
        ExportError: a conversion failed, int8 was asked for without faces, or a file cannot be written.
    """
    if "int8" in targets and (faces is None or faces.calibration is None or faces.choice is None):
        raise ExportError(
            "int8 is calibrated on faces, chosen by others and scored on further ones: give --data with a set that has "
            "training faces beside those of --split"
        )
    model, _ = load_classifier(checkpoint)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Of the name that it will have: a large network's weights lie beside it, and it names them.
        full = folder / (targets["fp32"].name if "fp32" in targets else FILES["fp32"])
        export_onnx(checkpoint, full, tolerance=tolerance)
        before = None if faces is None else evaluate(OnnxClassifier(full, device="cpu"), faces.scored)
        source = _Source(model, full, faces, before, most_lost)
        made, files = [], []
        for precision, target in targets.items():
            tell(f"{precision}: {target}")
            file = full if precision == "fp32" else folder / f"{precision}-{target.name}"
            files.append(file)
            method = source.convert(precision, file)
            made.append(source.measured(precision, method, file, target))
        _publish(list(zip(files, targets.values(), strict=True)))
    return made


@dataclass(frozen=True)
class _Source:
    """What every file is made from and held against.

    Attributes:
        model: the checkpoint's network.
        full: its float32 file.
        faces: as `export_variants` takes them.
        before: what the float32 file scored; None without faces.
        most_lost: as `export_variants` takes it.
    """

    model: nn.Module
    full: Path
    faces: Faces | None
    before: ClassificationReport | None
    most_lost: float

    def convert(self, precision: Precision, file: Path) -> str:
        """Make one file, with the float32 one's contract; say how."""
        if precision == "fp32":
            return "as trained"
        contract = _contract(self.full).replace(precision=precision)
        if precision == "fp16":
            to_fp16(self.full, file)
            method = "16-bit weights and arithmetic; sums and powers in float32"
        else:
            method = self._choose_int8(file, contract)
        write_contract(file, contract)
        onnx.checker.check_model(str(file), full_check=True)
        return method

    def _choose_int8(self, file: Path, contract: Contract) -> str:
        """Make the faster of static and dynamic 8-bit arithmetic that holds its accuracy on the faces that choose."""
        assert self.faces is not None
        assert self.faces.calibration is not None
        assert self.faces.choice is not None
        choice, images = self.faces.choice, calibration_images(self.faces.calibration, contract)
        static = []
        for calibration in CALIBRATIONS:
            candidate = file.with_suffix(f".{calibration}")
            to_static_int8(self.full, candidate, images, calibration)
            method = f"static, {calibration} ranges of {len(images)} faces"
            static.append(_Candidate(_accuracy(candidate, contract, choice), method, candidate))
        # Calibrations run equally fast: the best of them, then, against the dynamic one.
        best = max(static, key=lambda one: one.accuracy)
        candidate = file.with_suffix(".dynamic")
        to_dynamic_int8(self.full, candidate)
        dynamic = _Candidate(_accuracy(candidate, contract, choice), "dynamic, products with weights", candidate)
        least = evaluate(OnnxClassifier(self.full, device="cpu"), choice).accuracy - self.most_lost
        both = sorted((best, dynamic), key=lambda one: -one.accuracy)
        holding = [one for one in both if one.accuracy >= least] or both[:1]
        speeds = images_per_s([one.file for one in holding], images[:_SPEED_BATCH])
        chosen = holding[int(np.argmax(speeds))]
        chosen.file.replace(file)
        return chosen.method

    def measured(self, precision: Precision, method: str, file: Path, target: Path) -> Variant:
        """Hold a file against the checkpoint, and write into it what it scored."""
        contract = _contract(file)
        differences = parity(self.model, file, contract)
        worst = max(differences.values())
        if precision == "fp16" and not worst <= FP16_TOLERANCE:
            raise ParityError(
                f"{target}: logits differ from the checkpoint's by up to {worst:.3g}, more than {FP16_TOLERANCE:g}; "
                "not written"
            )
        report: ClassificationReport | None = None
        if self.faces is not None and self.before is not None:
            report = self.before
            if precision == "int8":
                contract = own_threshold(contract, OnnxClassifier(file, device="cpu"), self.faces.choice)
                write_contract(file, contract)
            if precision != "fp32":
                report = evaluate(OnnxClassifier(file, device="cpu"), self.faces.scored)
                need_accuracy(report, self.before, self.faces, self.most_lost, target)
            contract = contract.replace(metrics=metrics_of(report, self.faces.name))
            write_contract(file, contract)
        noise = np.random.default_rng(0).random((contract.in_chans, contract.img_size, contract.img_size), np.float32)
        ours, base = images_per_s([file, self.full], np.stack([noise] * _SPEED_BATCH))
        return Variant(
            precision=precision,
            method=method,
            path=target,
            bytes=size_of(file),
            sha256=file_sha256(file),
            differences=differences,
            images_per_s=ours,
            ratio=ours / base,
            report=report,
            contract=contract,
        )


class _Candidate(NamedTuple):
    """An 8-bit file that may be chosen."""

    accuracy: float
    method: str
    file: Path


def _contract(path: Path) -> Contract:
    return OnnxClassifier(path, device="cpu", threads=1).contract


def _accuracy(path: Path, contract: Contract, faces: ImageSet) -> float:
    write_contract(path, contract)
    return evaluate(OnnxClassifier(path, device="cpu"), faces).accuracy


def calibration_images(faces: ImageSet, contract: Contract) -> NDArray[np.float32]:
    """Return what ranges of 8-bit numbers come from: float32, (N, C, H, W), faces from all over the set."""
    crops = crops_of(faces)
    return to_input(crops[:: max(1, len(crops) // _CALIBRATION_FACES)][:_CALIBRATION_FACES], contract)


def need_accuracy(
    report: ClassificationReport, before: ClassificationReport, faces: Faces, most_lost: float, target: Path
) -> None:
    """Refuse a file that scores too badly.

    Args:
        report: what it scored on `faces`.
        before: what the float32 network scored there.
        faces: names them in the message.
        most_lost: of accuracy, a share.
        target: where the file would have gone.

    Raises:
        AccuracyLostError: more than `most_lost` is lost.
    """
    if report.accuracy < before.accuracy - most_lost:
        raise AccuracyLostError(
            f"{target}: accuracy {100 * report.accuracy:.2f} on {faces.title}, float32 has "
            f"{100 * before.accuracy:.2f}: more than {100 * most_lost:g} points are lost; not written"
        )


def metrics_of(report: ClassificationReport, name: str) -> dict[str, float]:
    """Return the figures of a report as contracts and the manifest have them; `name` is the set's and split's."""
    figures = {
        "accuracy": report.accuracy,
        "mean_class_accuracy": report.mean_class_accuracy,
        "macro_f1": report.macro_f1,
        "ece": report.ece,
    }
    if report.asserted.uncertain_below:
        figures["asserted_share"] = report.asserted.share
        if report.asserted.precision is not None:
            figures["asserted_precision"] = report.asserted.precision
    return {f"{name}_{figure}": round(value, 6) for figure, value in figures.items()}


def images_per_s(files: Sequence[Path], images: NDArray[np.float32]) -> list[float]:
    """Time files on this machine's CPU, in turns.

    Args:
        files: ONNX classifiers.
        images: float32, (N, C, H, W): one batch.

    Returns:
        The median of each, images a second.
    """
    sessions = [open_session(file, device="cpu") for file in files]
    rates: list[list[float]] = [[] for _ in files]
    for number in range(_SPEED_ROUNDS + 1):
        for session, measured in zip(sessions, rates, strict=True):
            begin = time.perf_counter()
            for _ in range(_SPEED_BATCHES):
                session.run({"images": images})
            if number:  # the first round warms up
                measured.append(_SPEED_BATCHES * len(images) / (time.perf_counter() - begin))
    return [statistics.median(measured) for measured in rates]


def _publish(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Give finished files their places, one after the other when all can be written."""
    with contextlib.ExitStack() as stack:
        try:
            waiting = []
            for file, target in pairs:
                folder = tempfile.TemporaryDirectory(dir=target.parent, prefix=".fer-")
                near = Path(stack.enter_context(folder)) / target.name
                shutil.copyfile(file, near)
                if data_path(file).is_file():
                    shutil.copyfile(data_path(file), data_path(near))
                waiting.append((near, target))
            for near, target in waiting:
                put_in_place(near, target)
        except OSError as error:
            raise ExportError(f"cannot write {pairs[0][1].parent}: {error}") from error
