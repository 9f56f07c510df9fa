"""A stand-in for the package `tensorrt`, which needs a GPU: the calls that are used here, computed by ONNX Runtime.

Its engines are the ONNX files themselves, and addresses are of the CPU's memory. It shows that our side of the calls
fits together; what TensorRT itself makes of them it cannot show.
"""

from __future__ import annotations

import contextlib
import ctypes
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

GPU = "NVIDIA Abacus"


class State:
    """What the stand-in was asked, and how it is to behave."""

    def __init__(self) -> None:
        self.profiles: list[tuple[str, tuple[tuple[int, ...], ...]]] = []
        self.caches: list[bytes] = []
        self.cleared: list[str] = []
        self.batches: list[int] = []
        self.types: list[int] = []
        self.refuses: str = ""  # parse, build, load or run
        self.foreign_cache = False
        self.off_by = 0.0  # every engine answers so much too much


class Bytes(bytes):
    def serialize(self) -> bytes:
        return self


def install(monkeypatch: pytest.MonkeyPatch, version: str = "10.13.2.6") -> State:
    """Put the stand-in in the place of `tensorrt`, and a GPU that is the CPU in the place of torch's."""
    import sys

    import export.tensorrt_backend as backend

    state = State()
    module = types.ModuleType("tensorrt")
    _fill(module, state)
    module.__version__ = version
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda ordinal: GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda ordinal: (9, 0))
    monkeypatch.setattr(torch.cuda, "device", lambda ordinal: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    stream = types.SimpleNamespace(cuda_stream=7, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda place: stream)
    monkeypatch.setattr(backend, "_place", lambda gpu: torch.device("cpu"))
    return state


def _fill(module: Any, state: State) -> None:  # noqa: C901 - a package in one function
    class ILogger:
        Severity = types.SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)

    class Network:
        content = b""

    class Profile:
        def set_shape(self, name: str, least: Any, usual: Any, most: Any) -> None:
            state.profiles.append((name, (least, usual, most)))

    class Config:
        cache = b""

        def add_optimization_profile(self, profile: Profile) -> int:
            return 0

        def clear_flag(self, flag: str) -> None:
            state.cleared.append(flag)

        def create_timing_cache(self, there: bytes) -> bytes:
            return there

        def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
            assert ignore_mismatch is False
            state.caches.append(cache)
            return not (state.foreign_cache and cache)

        def get_timing_cache(self) -> Bytes:
            return Bytes(b"timings")

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> Network:
            assert flags == 1 << 1  # strongly typed
            return Network()

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            if state.refuses == "build":
                self.logger.log(ILogger.Severity.WARNING, "not so important")
                self.logger.log(ILogger.Severity.ERROR, "no implementation for the node MatMul\nand more")
                return None
            return network.content

    class OnnxParser:
        num_errors = 1

        def __init__(self, network: Network, logger: Any) -> None:
            self.network = network

        def parse_from_file(self, path: str) -> bool:
            self.network.content = Path(path).read_bytes()
            return state.refuses != "parse"

        def get_error(self, number: int) -> Any:
            return types.SimpleNamespace(desc=lambda: f"error {number}: no such operator")

    class Context:
        def __init__(self, session: ort.InferenceSession) -> None:
            self.session = session
            self.places: dict[str, int] = {}
            self.shape: tuple[int, ...] = ()

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            (_, (least, _, most)) = state.profiles[-1]
            self.shape = shape
            return name == "images" and least[0] <= shape[0] <= most[0] and shape[1:] == least[1:]

        def set_tensor_address(self, name: str, place: int) -> bool:
            self.places[name] = place
            return True

        def execute_async_v3(self, stream: int) -> bool:
            assert stream == 7
            if state.refuses == "run":
                return False
            size = int(np.prod(self.shape))
            images = np.array((ctypes.c_float * size).from_address(self.places["images"]), np.float32)
            (logits,) = self.session.run(None, {"images": images.reshape(self.shape)})
            state.batches.append(self.shape[0])
            logits = np.ascontiguousarray(logits + np.float32(state.off_by))
            ctypes.memmove(self.places["logits"], logits.ctypes.data, logits.nbytes)
            return True

    class Engine:
        num_io_tensors = 2

        def __init__(self, content: bytes) -> None:
            self.session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])

        def get_tensor_name(self, number: int) -> str:
            return ("images", "logits")[number]

        def create_execution_context(self) -> Context:
            return Context(self.session)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
            if state.refuses == "load":
                self.logger.log(ILogger.Severity.ERROR, "version tag does not match")
                return None
            return Engine(content)

    module.ILogger, module.Builder, module.OnnxParser, module.Runtime = ILogger, Builder, OnnxParser, Runtime
    module.NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1)
    module.BuilderFlag = types.SimpleNamespace(TF32="tf32")
