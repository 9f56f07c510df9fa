"""Options of ONNX Runtime's TensorRT provider: engines are kept in a folder, and built for all batch sizes at once.

Without them an engine is built, for minutes, in each process, and again whenever a batch is larger than those before.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from fer_app.contract import METADATA_KEY
from fer_app.errors import ProviderUnavailableError

FOLDER_VARIABLE: Final = "FER_TENSORRT_CACHE"


def cache_folder() -> Path:
    """Return where engines are kept: what `FER_TENSORRT_CACHE` names, or a folder of the user's cache."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "fer-mimic" / "tensorrt"


def tensorrt_options(ort: Any, model: str | bytes, largest_batch: int | None) -> dict[str, str]:
    """Return the provider's options for a model, and make the folder that its engine is kept in.

    Args:
        ort: ONNX Runtime.
        model: the file's path, or its content.
        largest_batch: the engine is built for 1 to so many pictures; `None` leaves the sizes to ONNX Runtime.

    Raises:
        ProviderUnavailableError: the folder cannot be made, or the model is an 8-bit file for CPUs.
    """
    folder = cache_folder() / f"onnxruntime-{ort.__version__}" / _digest(model)[:16]
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }
    session = _opened(ort, model)
    contract = json.loads(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "{}"))
    precision = contract.get("precision") if isinstance(contract, dict) else None
    if precision == "int8":
        raise ProviderUnavailableError(
            "8-bit ONNX files are for CPUs, TensorRT takes others; build an engine: fer export CHECKPOINT -o DIR "
            "--format tensorrt --precision int8 --data FACES, and run it with --backend tensorrt"
        )
    if precision == "fp16":
        options |= {"trt_fp16_enable": "1", "trt_layer_norm_fp32_fallback": "1"}
    shapes = {node.name: list(node.shape) for node in session.get_inputs()}
    if largest_batch is not None and shapes and all(_free_batch(shape) for shape in shapes.values()):
        for name, batch in (("min", 1), ("opt", largest_batch), ("max", largest_batch)):
            options[f"trt_profile_{name}_shapes"] = ",".join(
                f"{tensor}:{'x'.join(map(str, [batch, *shape[1:]]))}" for tensor, shape in shapes.items()
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProviderUnavailableError(
            f"engines of TensorRT cannot be kept in {folder}: {error.strerror}; name another folder in the environment "
            f"variable {FOLDER_VARIABLE}"
        ) from error
    return options


def _free_batch(shape: list[int | str | None]) -> bool:
    return len(shape) > 1 and not isinstance(shape[0], int) and all(isinstance(size, int) for size in shape[1:])


def _opened(ort: Any, model: str | bytes) -> Any:
    """Open a model on the CPU as it is, to read what it says of itself."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)


def _digest(model: str | bytes) -> str:
    if isinstance(model, bytes):
        return hashlib.sha256(model).hexdigest()
    with Path(model).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
