"""What computes a classifier: ONNX Runtime, or a backend that another package brings, used only when it is asked for.

A backend is a module behind an entry point of the group `fer.backends`, with the two functions of `Backend`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

from fer_app.classifier import Classifier, OnnxClassifier
from fer_app.errors import InputError
from fer_app.extras import entry_points_of, needs_extras
from fer_app.model_choice import AUTO, PRECISIONS, choose_model
from fer_app.model_store import DEFAULT
from fer_app.session import DEFAULT_GPU, GpuOptions

GROUP: Final = "fer.backends"
ONNX: Final = "onnx"


class Backend(Protocol):
    """What a backend offers."""

    def find(self, model: str | Path) -> Path:
        """Return the file that a name, a path or `default` means; a `ModelError` where there is none."""
        ...

    def open(self, file: Path, *, device: str, precision: str, batch_size: int, threads: int | None) -> Classifier:
        """Return the classifier in a file, on a device as `fer_app.session.parse_device` reads them."""
        ...


def backend_names() -> tuple[str, ...]:
    """Return the names of all backends, ONNX Runtime first."""
    return (ONNX, *sorted(entry_points_of(GROUP)))


def find_model(model: str | Path = DEFAULT, *, backend: str = ONNX, precision: str = AUTO, device: str = AUTO) -> Path:
    """Return the file that a model's name or path means.

    Args:
        model: as the backend takes it; ONNX Runtime's as `choose_model` does.
        backend: one of `backend_names()`.
        precision: as `choose_model` takes it.
        device: where it will run.

    Raises:
        InputError: no such backend, precision or device.
        MissingExtraError: the backend needs a package that is not installed.
        ModelError: no such model.
    """
    if backend == ONNX:
        return choose_model(model, precision=precision, device=device)
    found: Path = _of(backend, "find")(model)
    return found


def open_classifier(
    model: str | Path = DEFAULT,
    *,
    backend: str = ONNX,
    device: str = AUTO,
    precision: str = AUTO,
    batch_size: int = 32,
    threads: int | None = None,
    gpu: GpuOptions = DEFAULT_GPU,
) -> Classifier:
    """Open a classifier.

    Args:
        model: as `find_model` takes it.
        backend: one of `backend_names()`.
        device: see `fer_app.session.open_session`.
        precision: as `choose_model` takes it.
        batch_size: at most this many faces go through the network at once.
        threads: CPU threads; `None` is one per physical core.
        gpu: what is asked of a CUDA device; for ONNX Runtime alone.

    Raises:
        InputError: an argument out of its range, or `gpu` asks something of another backend.
        MissingExtraError: the backend needs a package that is not installed.
        ModelError: no such model, a damaged one, or the device cannot be used.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, must be at least 1")
    if precision not in PRECISIONS:
        raise InputError(f"no such precision: {precision!r}; use one of {', '.join(PRECISIONS)}")
    file = find_model(model, backend=backend, precision=precision, device=device)
    if backend == ONNX:
        return OnnxClassifier(file, device=device, batch_size=batch_size, threads=threads, gpu=gpu)
    if gpu.memory_mb is not None or gpu.graphs:
        raise InputError(f"a limit of GPU memory and CUDA graphs are for the backend {ONNX}, not for {backend}")
    opened: Classifier = _of(backend, "open")(
        file, device=device, precision=precision, batch_size=batch_size, threads=threads
    )
    return opened


def _of(backend: str, function: str) -> Any:
    """Return a function of a backend; its module is imported when it is called."""
    entry_point = entry_points_of(GROUP).get(backend)
    if entry_point is None:
        raise InputError(f"no such backend: {backend!r}; use one of {', '.join(backend_names())}")

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(entry_point.load(), function)(*args, **kwargs)

    return needs_extras(f"the backend {backend}", entry_point, call)
