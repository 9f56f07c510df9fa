"""`fer doctor`: what is installed, where it would run, and whether it works."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from fer_app.errors import FerError, InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# One of the two names of ONNX Runtime is installed; the rest comes with extras.
_PACKAGES = ("onnxruntime-gpu", "onnxruntime", "numpy", "opencv-python", "opencv-python-headless", "pillow", "gradio")
_OPTIONAL = {
    "pillow-heif": "heic",
    "pyarrow": "parquet",
    "matplotlib": "plots",
    "torch": "train",
    "timm": "train",
    "onnx": "export",
}


def doctor(
    device: Annotated[str, typer.Option("--device", "-d", metavar="NAME", help="Where to run the self-test.")] = "auto",
) -> None:
    """Check the installation: versions, devices, weights, and one prediction."""
    from fer_app.session import parse_device

    try:
        parse_device(device)
    except InputError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from error
    _print_versions()
    _print_devices()
    problems = _check_weights() + _self_test(device)
    typer.echo()
    if problems:
        for problem in problems:
            typer.echo(f"problem: {problem}")
        raise typer.Exit(1)
    typer.echo("all is well")


def _title(text: str) -> None:
    typer.echo(f"\n{text}")


def _row(name: str, value: str) -> None:
    typer.echo(f"  {name:<22}  {value}")


def _print_versions() -> None:
    typer.echo("versions")
    _row("fer-mimic", _version("fer-mimic"))
    _row("python", f"{platform.python_version()} on {platform.platform()}")
    for package in _PACKAGES:
        if found := _version(package):
            _row(package, found)
    for package, extra in _OPTIONAL.items():
        _row(package, _version(package) or f'not installed (optional: pip install "fer-mimic[{extra}]")')


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _print_devices() -> None:
    from fer_app.cuda_driver import device_count, device_name
    from fer_app.session import available_providers, device_problem, physical_cores

    _title("devices")
    _row("providers", ", ".join(available_providers()))
    _row("cpu", f"usable, {physical_cores()} threads")
    for name in ("cuda", "tensorrt"):
        problem = device_problem(name)
        _row(name, problem or "nothing speaks against it; the self-test tells")
        for ordinal in range(0 if problem else device_count()):
            _row(f"{name}:{ordinal}", device_name(ordinal))


def _check_weights() -> list[str]:
    from fer_app.model_store import bundled_detectors, bundled_models, verify

    _title("weights")
    problems = []
    try:
        models = bundled_models()
        variants = [variant for model in models for variant in model.variants]
        entries = {entry.name: entry for entry in (*bundled_detectors(), *models)}
        entries |= {f"{variant.name} {variant.precision}": variant for variant in variants}
    except FerError as error:
        _row("manifest", "damaged")
        return [str(error)]
    for name, entry in entries.items():
        try:
            verify(entry)
        except FerError as error:
            _row(name, "damaged")
            problems.append(str(error))
        else:
            _row(name, f"sha256 {entry.sha256[:16]}… as in the manifest")
    if not models:
        _row("classifier", "none is bundled with this version")
    return problems


def _self_test(device: str) -> list[str]:
    """Detect in a made-up picture, classify a made-up face by each bundled model, and say how long each took."""
    from fer_app.classifier import OnnxClassifier
    from fer_app.detection import MtcnnDetector
    from fer_app.model_choice import choose_model
    from fer_app.model_store import DEFAULT, bundled_models
    from fer_app.recognizer import detector_device

    _title("self-test")
    try:
        detector = MtcnnDetector(device=detector_device(device))
        _row("device", f"{detector.device} (asked: {device})")
        picture = _made_up_picture()
        size = f"{picture.shape[1]} x {picture.shape[0]} px"
        _row("detector", f"{_timed(lambda: detector.detect([picture]))} for {size}, on {detector.device}")
        # Where none is bundled, asking for the default one says so.
        names = [entry.name for entry in bundled_models()] or [DEFAULT]
    except FerError as error:
        _row("failed", str(error))
        return [str(error)]
    problems = []
    for name in names:
        try:
            classifier = OnnxClassifier(choose_model(name, device=device), device=device)
            side = classifier.contract.img_size
            took = _timed(partial(classifier.probs, picture[None, :side, :side]))
        except FerError as error:
            _row("failed", str(error))
            problems.append(str(error))
            continue
        _row("classifier", f"{took} for one face, {name}, on {classifier.device}")
        if classifier.note:
            _row("why not faster", classifier.note)
    return problems


def _timed(run: Callable[[], object]) -> str:
    """Time the first run, which prepares things, and the second, which is what every further one takes."""
    times_ms = []
    for _ in range(2):
        begun = time.perf_counter()
        run()
        times_ms.append(1e3 * (time.perf_counter() - begun))
    return f"{times_ms[1]:.0f} ms (first run {times_ms[0]:.0f} ms)"


def _made_up_picture() -> npt.NDArray[np.uint8]:
    """Return uint8 RGB (480, 640, 3): smooth noise, always the same, for the detector to refuse."""
    import cv2
    import numpy as np

    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC), np.uint8)
