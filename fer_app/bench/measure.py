"""Every step from a file to expressions, timed for one or several models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fer_app.alignment import align_faces, alignable
from fer_app.bench.machine import describe_machine
from fer_app.bench.operations import Operations, count_operations
from fer_app.bench.product import Product, arithmetic_of, sides
from fer_app.bench.scenes import Scene, made_scenes, own_scenes
from fer_app.bench.turns import Case, take_turns
from fer_app.classifier import OnnxClassifier
from fer_app.contract import Precision
from fer_app.detection import MtcnnDetector
from fer_app.errors import InputError
from fer_app.image_io import read_image
from fer_app.model_choice import AUTO, choose_model
from fer_app.model_store import DEFAULT, bundled_models
from fer_app.recognizer import Recognizer, detector_device
from fer_app.results import Detections
from fer_app.session import DEFAULT_GPU, GpuOptions

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured, and with what.

    Attributes:
        models: names or paths, as `fer_app.model_choice.choose_model` takes them; the first is what the
            others are compared with.
        precisions: of each model, as `choose_model` takes them.
        device: as `fer_app.session.open_session` takes it.
        batches: faces that are classified at once.
        images: pictures to measure with; none is made-up ones.
        seconds: for all of it; every case has a turn whatever it says.
        threads: CPU threads; None is one per physical core.
        min_face_px: smallest face looked for, px.
        gpu: what is asked of a CUDA device; the detector has half of its memory.
    """

    models: tuple[str, ...] = (DEFAULT,)
    precisions: tuple[str, ...] = (AUTO,)
    device: str = "auto"
    batches: tuple[int, ...] = (1, 8, 32, 128)
    images: tuple[str, ...] = ()
    seconds: float = 20
    threads: int | None = None
    min_face_px: float = 40
    gpu: GpuOptions = DEFAULT_GPU


class _Model(NamedTuple):
    """A classifier that is open.

    Attributes:
        label: tells it from the others.
        file: where it lies.
        classifier: runs it.
        operations: of one face.
        parts: how many of them its device does in which arithmetic; empty where that is not known.
    """

    label: str
    file: Path
    classifier: OnnxClassifier
    operations: Operations
    parts: dict[Precision, int]


class _Row(NamedTuple):
    """A line of the report: what is done to how many images (pictures, or faces cut out) in a run.

    `first` is the same work with the first model.
    """

    stage: str
    work: str
    images: int
    case: Case
    model: _Model | None = None
    first: Case | None = None


class _Peak(NamedTuple):
    """A matrix product to hold models of this arithmetic against."""

    arithmetic: Precision
    product: Product
    case: Case

    @property
    def flop_per_s(self) -> float:
        """Of the fastest run."""
        return self.product.flop / self.case.quantile_s(0)


class _Picture(NamedTuple):
    """A scene and the faces in it."""

    scene: Scene
    found: Detections

    @property
    def work(self) -> str:
        """What the report calls it."""
        return f"{self.scene.name}, {len(self.found)} face{'' if len(self.found) == 1 else 's'}"

    def cut(self, size: int, crop: str) -> npt.NDArray[np.uint8]:
        """Cut the faces out: uint8, (N, size, size, 3), RGB."""
        return align_faces(self.scene.image, self.found.landmarks, img_size=size, crop=crop)


def measure(settings: Settings, on_turn: Callable[[float], object] = lambda _: None) -> dict[str, Any]:
    """Time decoding, detection, alignment, classification and all of it together, in turns.

    Args:
        settings: what is measured.
        on_turn: called before each turn with the seconds that have gone.

    Returns:
        The report, ready for JSON: `schema_version machine settings models products rows`.

    Raises:
        InputError: an argument out of its range, pictures that cannot be read, or no face in any of them.
        ModelError: a model cannot be had, or not on this device.
    """
    if not settings.batches or min(settings.batches) < 1:
        raise InputError(f"batches are {settings.batches}; name one or more, of at least one face")
    scenes = own_scenes(settings.images) if settings.images else made_scenes()
    models = _open_models(settings)
    machine = describe_machine(models[0].classifier.device, settings.threads)
    detector = MtcnnDetector(
        min_face_px=settings.min_face_px,
        steady=True,
        device=detector_device(settings.device),
        threads=settings.threads,
        gpu=settings.gpu.share(2),
    )
    pictures = [_Picture(scene, found) for scene, found in zip(scenes, _find(detector, scenes, models), strict=True)]
    peaks = list(_peaks(models, settings.threads))
    rows = [*_picture_rows(detector, pictures, models), *_model_rows(detector, pictures, models, settings.batches)]
    take_turns([*(peak.case for peak in peaks), *(row.case for row in rows)], settings.seconds, on_turn)
    return {
        "schema_version": SCHEMA_VERSION,
        "machine": machine,
        "settings": {
            "seconds": settings.seconds,
            "min_face_px": settings.min_face_px,
            "pictures": "own" if settings.images else "made",
            "gpu_memory_mb": settings.gpu.memory_mb,
            "cuda_graphs": settings.gpu.graphs,
        },
        "models": [_model_record(model) for model in models],
        "products": [_product_record(peak) for peak in peaks],
        "rows": [_row_record(row, peaks) for row in rows],
    }


def _open_models(settings: Settings) -> list[_Model]:
    files = dict.fromkeys(
        choose_model(name, precision=precision, device=settings.device)
        for name in settings.models
        for precision in settings.precisions
    )
    share = settings.gpu.share(2 * len(files))
    classifiers = {
        file: OnnxClassifier(
            file, device=settings.device, batch_size=max(settings.batches), threads=settings.threads, gpu=share
        )
        for file in files
    }
    short = {file: f"{_name(file)} {classifier.contract.precision}" for file, classifier in classifiers.items()}
    taken = list(short.values())
    models = []
    for file, label in short.items():
        operations = count_operations(file)
        unique = label if taken.count(label) == 1 else str(file)
        models.append(_Model(unique, file, classifiers[file], operations, _parts(classifiers[file], operations)))
    return models


def _parts(classifier: OnnxClassifier, operations: Operations) -> dict[Precision, int]:
    if operations.flop is None:
        return {}
    rest: Precision = "fp16" if classifier.contract.precision == "fp16" else "fp32"
    parts: dict[Precision, int] = {}
    for precision, flop in ((rest, operations.flop - operations.int8), ("int8", operations.int8)):
        arithmetic = arithmetic_of(precision, classifier.device)
        if arithmetic is None and flop:
            return {}
        if arithmetic is not None and flop:
            parts[arithmetic] = parts.get(arithmetic, 0) + flop
    return parts


def _name(file: Path) -> str:
    for entry in bundled_models():
        if file in (entry.path, *(other.path for other in entry.variants)):
            return entry.name
    return file.stem


def _find(detector: MtcnnDetector, scenes: Sequence[Scene], models: Sequence[_Model]) -> list[Detections]:
    """Return the faces of every scene that all models can be given."""
    crops = {model.classifier.contract.crop for model in models}
    found = [detector.detect([scene.image])[0] for scene in scenes]
    for crop in crops:
        found = [one[alignable(one.landmarks, crop)] for one in found]
    if not any(map(len, found)):
        raise InputError("no face in the pictures to measure with; name others, or lower --min-face")
    return found


def _peaks(models: Sequence[_Model], threads: int | None) -> Iterator[_Peak]:
    device = detector_device(models[0].classifier.device)
    for arithmetic in dict.fromkeys(arithmetic for model in models for arithmetic in model.parts):
        for side in sides(device):
            product = Product(arithmetic, side, device, threads)
            yield _Peak(arithmetic, product, Case(product.run))


def _picture_rows(detector: MtcnnDetector, pictures: Sequence[_Picture], models: Sequence[_Model]) -> Iterator[_Row]:
    """What no model has part in, or only through the size of its crops."""
    for picture in pictures:
        yield _Row("decode", picture.work, 1, Case(partial(read_image, picture.scene.file)))
    for picture in pictures:
        yield _Row("detect", picture.work, 1, Case(partial(detector.detect, [picture.scene.image])))
    for size, crop in sorted({(m.classifier.contract.img_size, m.classifier.contract.crop) for m in models}):
        for picture in pictures:
            if len(picture.found):
                work = f"{picture.work}, to {size} px"
                yield _Row("align", work, len(picture.found), Case(partial(picture.cut, size, crop)))


def _model_rows(
    detector: MtcnnDetector, pictures: Sequence[_Picture], models: Sequence[_Model], batches: Sequence[int]
) -> Iterator[_Row]:
    for batch in batches:
        cases = [Case(partial(model.classifier.probs, _faces(pictures, model, batch))) for model in models]
        for model, case in zip(models, cases, strict=True):
            yield _Row("classify", f"{batch} face{'' if batch == 1 else 's'}", batch, case, model, cases[0])
    recognizers = [Recognizer(model.classifier, detect=False) for model in models]
    for recognizer in recognizers:
        recognizer.detector = detector
    for picture in pictures:
        cases = [Case(partial(recognizer.predict, picture.scene.file)) for recognizer in recognizers]
        for model, case in zip(models, cases, strict=True):
            yield _Row("end to end", picture.work, 1, case, model, cases[0])


def _faces(pictures: Sequence[_Picture], model: _Model, count: int) -> npt.NDArray[np.uint8]:
    """So many of the faces in the pictures, over and over, as the model is given them."""
    contract = model.classifier.contract
    cut = np.concatenate([picture.cut(contract.img_size, contract.crop) for picture in pictures])
    return np.resize(cut, (count, *cut.shape[1:]))


def _model_record(model: _Model) -> dict[str, Any]:
    with model.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "label": model.label,
        "file": model.file.name,
        "sha256": digest,
        "precision": model.classifier.contract.precision,
        "img_size": model.classifier.contract.img_size,
        "device": model.classifier.device,
        "note": model.classifier.note,
        "flop_per_face": model.operations.flop,
        "flop_unknown": model.operations.unknown,
        "flop_by_arithmetic": model.parts,
    }


def _product_record(peak: _Peak) -> dict[str, Any]:
    return {
        "arithmetic": peak.arithmetic,
        "side": peak.product.side,
        "runs": peak.case.runs,
        "gflop_per_s_best": peak.flop_per_s / 1e9,
        "gflop_per_s_p50": peak.product.flop / peak.case.quantile_s(0.5) / 1e9,
    }


def _row_record(row: _Row, peaks: Sequence[_Peak]) -> dict[str, Any]:
    p50_s = row.case.quantile_s(0.5)
    record: dict[str, Any] = {
        "stage": row.stage,
        "work": row.work,
        "model": row.model.label if row.model else None,
        "images": row.images,
        "runs": row.case.runs,
        "ms_best": 1e3 * row.case.quantile_s(0),
        "ms_p50": 1e3 * p50_s,
        "ms_p99": 1e3 * row.case.quantile_s(0.99),
        "images_per_s": row.images / p50_s,
        "gflop_per_s": None,
        "share_of_peak": None,
        "times_as_fast_as_first": None,
    }
    if row.model is None or row.first is None:
        return record
    record["times_as_fast_as_first"] = row.case.times_as_fast(row.first)
    flop = row.model.operations.flop
    if row.stage == "classify" and flop is not None:
        record["gflop_per_s"] = flop * row.images / p50_s / 1e9
    if row.stage == "classify" and row.model.parts:
        # The fastest run of either: what else the machine does would enter into the medians.
        fastest = {
            arithmetic: max(peak.flop_per_s for peak in peaks if peak.arithmetic == arithmetic)
            for arithmetic in row.model.parts
        }
        floor_s = row.images * sum(flop / fastest[arithmetic] for arithmetic, flop in row.model.parts.items())
        record["share_of_peak"] = floor_s / row.case.quantile_s(0)
    return record
