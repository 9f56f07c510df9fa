"""The package `tensorrt` and the GPU: what is there, and what to install where it is not.

An engine runs on the kind of GPU and with the version of TensorRT that it was built on, and nowhere else.
"""

from __future__ import annotations

import importlib
from typing import Any, Final, NamedTuple

import torch

from fer_app.errors import MissingExtraError, ProviderUnavailableError
from fer_app.session import parse_device

PACKAGE: Final = "tensorrt"
LEAST_VERSION: Final = (10, 0)
"""The first with the calls that are used here: tensors by name, strongly typed networks."""


class Gpu(NamedTuple):
    """A GPU as engines know it.

    Attributes:
        ordinal: counts NVIDIA devices from 0.
        name: such as `NVIDIA H100 80GB HBM3`.
        capability: such as `9.0`.
    """

    ordinal: int
    name: str
    capability: str


def load_tensorrt() -> Any:
    """Import the package.

    Raises:
        MissingExtraError: it is not installed, or too old; the message says what to install.
    """
    hint = f'pip install "{PACKAGE}-cu{_cuda_major()}>={".".join(map(str, LEAST_VERSION))}"'
    try:
        found = importlib.import_module(PACKAGE)
    except ImportError as error:
        missing = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
        raise MissingExtraError(f"TensorRT's package {PACKAGE} {missing}: {hint}") from error
    version = tuple(int(part) for part in found.__version__.split(".")[:2])
    if version < LEAST_VERSION:
        raise MissingExtraError(f"{PACKAGE} {found.__version__} is too old: {hint}")
    return found


def gpu_for(device: str) -> Gpu:
    """Return the GPU that a device name means; `auto` and `tensorrt` are the first one.

    Raises:
        InputError: no such device name.
        ProviderUnavailableError: it is none that torch sees.
    """
    asked = parse_device(device)
    if asked.kind == "cpu":
        raise ProviderUnavailableError("engines of TensorRT run on NVIDIA GPUs: use --device cuda")
    count = torch.cuda.device_count()
    if asked.ordinal >= count:
        raise ProviderUnavailableError(
            f"cannot run on cuda:{asked.ordinal}: torch sees {count} CUDA devices; TensorRT needs an NVIDIA GPU, its "
            "driver, and a torch with CUDA"
        )
    major, minor = torch.cuda.get_device_capability(asked.ordinal)
    return Gpu(asked.ordinal, torch.cuda.get_device_name(asked.ordinal), f"{major}.{minor}")


def make_logger(tensorrt: Any) -> Any:
    """Return a logger for TensorRT that keeps what it says of errors in a list, `errors`, and prints nothing."""

    class Logger(tensorrt.ILogger):  # type: ignore[misc]  # the package is not there when types are checked
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.Severity.ERROR, tensorrt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message.strip())

    return Logger()


def _cuda_major() -> str:
    """Return the major version of CUDA that torch was built for, which TensorRT's wheels have in their names."""
    return (torch.version.cuda or "13").partition(".")[0]
