"""What a measurement was made on."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fer_app.cuda_driver import device_name
from fer_app.session import parse_device, physical_cores, runtime

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


def describe_machine(device: str, threads: int | None) -> dict[str, Any]:
    """Say what the machine is and what else it does.

    Args:
        device: where the classifier runs: `cpu`, `cuda:0`, ...
        threads: that were asked for; None is one per physical core.
    """
    where = parse_device(device)
    return {
        "cpu": _cpu_name(),
        "cores": physical_cores(),
        "logical_cpus": os.cpu_count(),
        "threads": threads or physical_cores(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "device": device,
        "gpu": None if where.kind == "cpu" else device_name(where.ordinal),
        "provider": _PROVIDERS[where.kind],
        "onnxruntime": runtime().__version__,
        "python": platform.python_version(),
        "fer_mimic": _version("fer-mimic"),
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
