"""ONNX Runtime sessions: the device that was asked for, or an error that says why not.

ONNX Runtime itself answers a request that it cannot meet with a session on the CPU and a line in its log. Here only
`device="auto"` may choose, and `Session.device` and `Session.note` say what was chosen and why.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fer_app.cuda_driver import device_count, newest_cuda
from fer_app.errors import InputError, ModelError, ModelNotFoundError, ProviderUnavailableError
from fer_app.tensorrt_cache import tensorrt_options

DEVICES = "auto, cpu, cuda, cuda:N, tensorrt, tensorrt:N"
_CUDA = "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
_CPU = "CPUExecutionProvider"
_PROVIDERS = {"cpu": (_CPU,), "cuda": (_CUDA, _CPU), "tensorrt": (_TENSORRT, _CUDA, _CPU)}
_PROVIDER_LIBRARY = {"cuda": "onnxruntime_providers_cuda", "tensorrt": "onnxruntime_providers_tensorrt"}
_LOG_FATAL = 4


class Device(NamedTuple):
    """A parsed device name: `kind` is auto, cpu, cuda or tensorrt; `ordinal` counts NVIDIA devices from 0."""

    kind: str
    ordinal: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind in ("auto", "cpu") else f"{self.kind}:{self.ordinal}"


@dataclass(frozen=True)
class GpuOptions:
    """What is asked of a CUDA device besides its name.

    Attributes:
        memory_mb: at most so many MiB of the device's memory for weights and what is computed; None is no limit. What
            CUDA's own libraries take comes on top.
        graphs: record the work of a batch once for every size of batch, and replay it (CUDA graphs).
    """

    memory_mb: int | None = None
    graphs: bool = False

    def __post_init__(self) -> None:
        if self.memory_mb is not None and self.memory_mb < 1:
            raise InputError(f"the limit of GPU memory is {self.memory_mb} MB, must be at least 1")

    def share(self, parts: int) -> GpuOptions:
        """Return the options of one of several sessions that keep within the limit together."""
        return self if self.memory_mb is None else replace(self, memory_mb=max(1, self.memory_mb // parts))


DEFAULT_GPU = GpuOptions()


def parse_device(name: str) -> Device:
    """Read a device name such as `cuda:1`.

    Raises:
        InputError: the name is none of `DEVICES`.
    """
    match = re.fullmatch(r"(auto|cpu)|(cuda|tensorrt)(?::(\d+))?", name.strip().lower())
    if match is None:
        raise InputError(f"no such device: {name!r}; use one of {DEVICES}")
    plain, accelerator, index = match.groups()
    return Device(plain or accelerator, int(index or 0))


def nvidia_device_visible() -> bool:
    """Tell in microseconds, without loading CUDA, whether an NVIDIA driver is there and not hidden."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    if sys.platform == "win32":
        return shutil.which("nvidia-smi") is not None
    # The last one is the driver as Windows lends it to Linux (WSL 2), which has no /proc entry.
    signs = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/libcuda.so.1")
    return any(Path(sign).exists() for sign in signs)


def physical_cores() -> int:
    """Count the physical cores that this process may use (affinity and a container's CPU quota respected)."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = affinity(0) if affinity else range(os.cpu_count() or 1)
    cores = set()
    for cpu in allowed:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    count = len(cores)
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    return max(1, count)


class Session:
    """A model that is loaded and ready on one device. `run` may be called from several threads.

    Attributes:
        device: where it runs: `cpu`, `cuda:0`, `tensorrt:0`, ...
        note: why `auto` did not take the accelerator that it saw; empty otherwise.
        metadata: the key-value pairs stored inside the ONNX file.
        input_names: names of the inputs, in order.
        output_names: names of the outputs, in order.
        input_shapes: one tuple per input; an `int` is a fixed size, a `str` or `None` a free one.
        output_shapes: the same for the outputs.
        input_types: ONNX Runtime's names, such as `tensor(float)`.
        inference: the `onnxruntime.InferenceSession`, for what else it can do.
    """

    def __init__(self, session: Any, device: Device, note: str = "", run_options: Any = None) -> None:
        """Wrap an `onnxruntime.InferenceSession` and what its runs are given; use `open_session` to make one."""
        self.inference = session
        self.device = str(device)
        self.note = note
        self._run_options = run_options
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        self.input_names: tuple[str, ...] = tuple(node.name for node in inputs)
        self.output_names: tuple[str, ...] = tuple(node.name for node in outputs)
        self.input_shapes: tuple[tuple[int | str | None, ...], ...] = tuple(tuple(node.shape) for node in inputs)
        self.output_shapes: tuple[tuple[int | str | None, ...], ...] = tuple(tuple(node.shape) for node in outputs)
        self.input_types: tuple[str, ...] = tuple(node.type for node in inputs)

    def run(self, feeds: dict[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Run the model.

        Args:
            feeds: one array an input.
            outputs: names of those that are wanted; None for all of `output_names`.

        Returns:
            One array an output, in that order.

        Raises:
            ModelError: the run failed (a wrong shape or type, or no memory left on the device).
        """
        try:
            results = self.inference.run(outputs, feeds, self._run_options)
        except Exception as error:
            raise self.failure(error) from error
        return [np.asarray(result) for result in results]

    def failure(self, error: Exception) -> Exception:
        """Return the error to raise for one that came out of a run: a `ModelError` where ONNX Runtime raised it."""
        # Runs with bound memory report with a plain RuntimeError.
        if not (_from_onnxruntime(error) or type(error) is RuntimeError):
            return error
        return ModelError(f"the model failed on {self.device}: {_first_line(error)}")


def open_session(
    model: Path | bytes,
    *,
    device: str = "auto",
    threads: int | None = None,
    gpu: GpuOptions = DEFAULT_GPU,
    largest_batch: int | None = None,
) -> Session:
    """Load an ONNX model.

    Args:
        model: the file, or its content.
        device: one of `DEVICES`. `auto` takes CUDA when it works and the CPU otherwise.
        threads: CPU threads of one run; `None` is one per physical core.
        gpu: what is asked of a CUDA device.
        largest_batch: TensorRT builds its engine for 1 to so many pictures; `None` leaves the sizes to ONNX Runtime.

    Raises:
        InputError: no such device name, or the device does not have what `gpu` asks for.
        ModelNotFoundError: no such file.
        ModelError: the file is no ONNX model, or this ONNX Runtime cannot run it.
        ProviderUnavailableError: the asked-for device cannot be used; the message says why and what to install.
    """
    asked = parse_device(device)
    if isinstance(model, Path) and not model.is_file():
        raise ModelNotFoundError(f"no model file at {model}")
    if asked.kind != "auto":
        return _open_on(model, asked, threads, gpu, largest_batch=largest_batch)
    note = ""
    # Graphs are a wish for CUDA: where it cannot be met, the reason is an error and not a note.
    if nvidia_device_visible() or gpu.graphs:
        try:
            return _open_on(model, Device("cuda"), threads, gpu)
        except ProviderUnavailableError as error:
            if gpu.graphs:
                raise
            note = str(error)
    return _open_on(model, Device("cpu"), threads, gpu, note)


def _open_on(
    model: Path | bytes,
    device: Device,
    threads: int | None,
    gpu: GpuOptions,
    note: str = "",
    largest_batch: int | None = None,
) -> Session:
    if gpu.graphs and device.kind != "cuda":
        raise InputError(f"CUDA graphs are a way of running on --device cuda; the device is {device}")
    if gpu.memory_mb is not None and device.kind == "tensorrt":
        raise InputError(f"the memory of {device} cannot be limited; use --device cuda:{device.ordinal}")
    ort = runtime()
    if hopeless := _why_not_tried(device):
        raise ProviderUnavailableError(f"cannot run on {device}: {hopeless}")
    missing = "" if device.kind == "cpu" else _preload_cuda()
    wanted = _PROVIDERS[device.kind]
    providers = [_with_options(name, device, gpu) for name in wanted]
    content = str(model) if isinstance(model, Path) else model
    try:
        if device.kind == "tensorrt":
            if why := _why_library_fails(device):
                raise ProviderUnavailableError(f"cannot run on {device}: {why}")
            options = {"device_id": str(device.ordinal)} | tensorrt_options(ort, content, largest_batch)
            providers[0] = (_TENSORRT, options)
        # enable_fallback=0: ONNX Runtime must not retry on the CPU behind our back, now or in a later run.
        session = ort.InferenceSession(content, _options(ort, threads), providers=providers, enable_fallback=0)
    except Exception as error:
        if not (_from_onnxruntime(error) or isinstance(error, (RuntimeError, ValueError))):
            raise
        if device.kind != "cpu" and not _is_model_fault(error):
            why = _why_library_fails(device) or missing or _first_line(error)
            raise ProviderUnavailableError(f"cannot run on {device}: {why}") from error
        name = str(model) if isinstance(model, Path) else "the given bytes"
        raise ModelError(f"{name}: ONNX Runtime cannot load it: {_first_line(error)}") from error
    if wanted[0] not in session.get_providers():
        why = _why_library_fails(device) or missing or "ONNX Runtime could not start its provider"
        raise ProviderUnavailableError(f"cannot run on {device}: {why}")
    run_options = None
    if gpu.graphs:
        # Recording wants memory in fixed places, which an ordinary run does not have: it goes without.
        run_options = ort.RunOptions()
        run_options.add_run_config_entry("gpu_graph_id", "-1")
    return Session(session, device, note, run_options)


def available_providers() -> tuple[str, ...]:
    """Return ONNX Runtime's execution providers that the installed package was built with."""
    return tuple(runtime().get_available_providers())


def device_problem(name: str) -> str:
    """Say why a device cannot be used, as far as can be told without a model; empty when nothing speaks against it.

    Raises:
        InputError: no such device name.
    """
    device = parse_device(name)
    return "" if device.kind == "auto" else _why_not_tried(device) or _why_library_fails(device)


@functools.cache
def runtime() -> Any:
    """Return ONNX Runtime: imported once, quiet, and reporting to nobody."""
    import onnxruntime as ort

    # Its warnings about accelerators that are not there would reach a user who asked for none;
    # failures that matter arrive as exceptions.
    ort.set_default_logger_severity(_LOG_FATAL)
    ort.disable_telemetry_events()
    return ort


def _options(ort: Any, threads: int | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    options.intra_op_num_threads = physical_cores() if threads is None else threads
    # Threads that spin between runs starve OpenCV's and OpenMP's pools: 3-4 times slower on few cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _with_options(provider: str, device: Device, gpu: GpuOptions) -> str | tuple[str, dict[str, str]]:
    if provider == _CPU:
        return provider
    options = {"device_id": str(device.ordinal)}
    if provider == _CUDA:
        # The default tries every algorithm for every new input shape, and pictures come in all shapes.
        options["cudnn_conv_algo_search"] = "HEURISTIC"
        # The default rounds float32 to 10 bits of mantissa in products; whoever wants less takes a file of less.
        options["use_tf32"] = "0"
        if gpu.memory_mb is not None:
            options["gpu_mem_limit"] = str(gpu.memory_mb * 2**20)
            # The default doubles what it holds, and would stop at half of the limit.
            options["arena_extend_strategy"] = "kSameAsRequested"
        if gpu.graphs:
            options["enable_cuda_graph"] = "1"
    return provider, options


def _why_not_tried(device: Device) -> str:
    """A reason to give up on an accelerator before loading anything; empty when it is worth a try."""
    if device.kind == "cpu":
        return ""
    available = runtime().get_available_providers()
    if _PROVIDERS[device.kind][0] not in available:
        return (
            "the installed ONNX Runtime has no such provider; it needs the package onnxruntime-gpu: " + _install_hint()
        )
    if not nvidia_device_visible():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        also = f" (CUDA_VISIBLE_DEVICES is {hidden!r})" if hidden is not None else ""
        return f"no NVIDIA driver found on this machine{also}; install the driver, or use --device cpu"
    try:
        count, newest = device_count(), newest_cuda()
    except ProviderUnavailableError as error:
        return str(error)
    if newest[0] < (needed := _cuda_needed()):
        return (
            f"the NVIDIA driver runs CUDA {newest[0]}.{newest[1]} at most, and ONNX Runtime needs CUDA {needed}; "
            "install a newer driver"
        )
    if device.ordinal >= count:
        last = f"the last one is {device.kind}:{count - 1}" if count else "the driver shows none"
        return f"there is no NVIDIA device {device.ordinal}: {last}"
    return ""


def _cuda_needed() -> int:
    """Return the major version of CUDA that ONNX Runtime was built for; 0 where it does not say."""
    try:
        from onnxruntime.capi import build_and_package_info
    except ImportError:
        return 0
    major = str(getattr(build_and_package_info, "cuda_version", "")).partition(".")[0]
    return int(major) if major.isdecimal() else 0


@functools.cache
def _preload_cuda() -> str:
    """Load the CUDA libraries that came as Python packages; returns what ONNX Runtime said when some were missing."""
    said = io.StringIO()
    # It reports with print(), which would end up between the results on stdout.
    with contextlib.redirect_stdout(said):
        runtime().preload_dlls()
    missing = re.search(r"Failed to load ([^\s:]+)", said.getvalue())
    return f"{missing[1]} is missing; {_install_hint()}" if missing else ""


def _why_library_fails(device: Device) -> str:
    """Load the provider's own library to learn which of its dependencies is missing; empty when it loads."""
    if device.kind == "cpu":
        return ""
    _preload_cuda()
    folder = Path(runtime().__file__).parent / "capi"
    prefix, suffix = ("", ".dll") if sys.platform == "win32" else ("lib", ".so")
    try:
        # On Windows the folders of PATH are searched too, as ONNX Runtime itself does.
        ctypes.CDLL(str(folder / f"{prefix}onnxruntime_providers_shared{suffix}"), mode=ctypes.RTLD_GLOBAL, winmode=0)
        ctypes.CDLL(str(folder / f"{prefix}{_PROVIDER_LIBRARY[device.kind]}{suffix}"), winmode=0)
    except OSError as error:
        if sys.platform == "win32":  # which names the library that was to be loaded, not the one that it lacks
            missing = f"a library that {_PROVIDER_LIBRARY[device.kind]}.dll needs is missing"
            needs_tensorrt = device.kind == "tensorrt"
        else:
            library = _first_line(error).split(":")[0]
            missing, needs_tensorrt = f"{library} is missing", library.startswith("libnvinfer")
        if needs_tensorrt:
            return f"{missing}; install TensorRT and put the folder of its libraries on the library path"
        return f"{missing}; {_install_hint()}"
    return ""


def _install_hint() -> str:
    return 'pip install "fer-mimic[cuda]"'


def _is_model_fault(error: Exception) -> bool:
    """Tell a bad model file from a bad device."""
    return type(error).__name__ in ("InvalidProtobuf", "InvalidGraph", "NoSuchFile", "InvalidArgument", "NoModel")


def _from_onnxruntime(error: Exception) -> bool:
    return type(error).__module__.startswith("onnxruntime")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
