"""The backend `tensorrt`: an engine that `fer export --format tensorrt` has built, on the GPU that it was built for."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.engine_file import EngineRecord, read_record
from export.tensorrt_package import PACKAGE, Gpu, gpu_for, load_tensorrt, make_logger
from fer_app.classifier import INPUT_NAME, OUTPUT_NAME, Crops
from fer_app.contract import Contract
from fer_app.errors import InputError, ModelError, ModelNotFoundError, ProviderUnavailableError
from fer_app.preprocess import softmax, to_input


class EngineClassifier:
    """An engine behind the protocol `fer_app.classifier.Classifier`."""

    def __init__(self, path: Path, *, device: str = "auto", batch_size: int | None = None) -> None:
        """Load an engine.

        Args:
            path: the engine; its contract lies beside it.
            device: `auto`, `cuda`, `cuda:N`, `tensorrt` or `tensorrt:N`.
            batch_size: at most this many faces go through the network at once; `None` is as many as it takes.

        Raises:
            InputError: no such device name, or `batch_size` is below 1.
            MissingExtraError: the package `tensorrt` is not installed.
            ModelError: the engine or its contract is missing or damaged, or was built for another GPU or version.
        """
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, must be at least 1")
        self.record: EngineRecord = read_record(path)
        tensorrt = load_tensorrt()
        gpu = gpu_for(device)
        _refuse_elsewhere(path, self.record, tensorrt.__version__, gpu)
        self._gpu = gpu
        self._batch_size = batch_size or self.record.batches.most
        self._place = _place(gpu)
        self._lock = threading.Lock()  # a context is used by one thread at a time
        self._logger = make_logger(tensorrt)
        self._runtime = tensorrt.Runtime(self._logger)
        with torch.cuda.device(gpu.ordinal):
            self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if self._engine is None:
                raise ModelError(f"{path}: TensorRT cannot load the engine: {self._said()}")
            self._context = self._engine.create_execution_context()
            self._stream = torch.cuda.Stream(self._place)  # type: ignore[no-untyped-call]
        names = {self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)}
        if names != {INPUT_NAME, OUTPUT_NAME}:
            raise ModelError(f"{path}: the engine has the tensors {', '.join(sorted(names))}; it is not one of ours")

    @property
    def contract(self) -> Contract:
        """What lies beside the engine."""
        return self.record.contract

    @property
    def device(self) -> str:
        """Where it runs, such as `cuda:0`."""
        return f"cuda:{self._gpu.ordinal}"

    @property
    def note(self) -> str:
        """What computes it, and how."""
        return f"TensorRT {self.record.tensorrt}, {self.contract.precision}"

    def logits(self, crops: Crops) -> NDArray[np.float32]:
        """Classify crops.

        Args:
            crops: uint8, (N, h, w, 3) RGB or (N, h, w) grey, or N such pictures of any sizes; N may be 0.

        Returns:
            float32, (N, K), in the order of `contract.labels`.

        Raises:
            InputError: the crops are not uint8 or have another shape.
            ModelError: the run failed on the device.
        """
        chunks = [np.zeros((0, len(self.contract.labels)), np.float32)]
        for start, stop, batch in self.record.batches.cut(len(crops), self._batch_size):
            images = to_input(crops[start:stop], self.contract)
            chunks.append(self.run(images, batch))
        return np.concatenate(chunks)

    def probs(self, crops: Crops) -> NDArray[np.float32]:
        """Like `logits`, then softmax with the contract's temperature."""
        return softmax(self.logits(crops), self.contract.temperature)

    def run(self, images: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
        """Run the engine once.

        Args:
            images: float32, (N, C, H, W), normalised.
            batch: how many the engine is given, at least N; those after the N are empty.

        Returns:
            float32, (N, K).

        Raises:
            ModelError: the run failed on the device.
        """
        host = torch.zeros((batch, *images.shape[1:]))
        host[: len(images)] = torch.from_numpy(images)
        try:
            with self._lock, torch.cuda.device(self._gpu.ordinal), torch.cuda.stream(self._stream):
                given = host.to(self._place)
                answers = torch.empty((batch, len(self.contract.labels)), device=self._place)
                fits = self._context.set_input_shape(INPUT_NAME, tuple(given.shape))
                fits = fits and self._context.set_tensor_address(INPUT_NAME, given.data_ptr())
                fits = fits and self._context.set_tensor_address(OUTPUT_NAME, answers.data_ptr())
                if not (fits and self._context.execute_async_v3(self._stream.cuda_stream)):
                    raise ModelError(f"TensorRT failed on {self.device} with a batch of {batch}: {self._said()}")
                self._stream.synchronize()
                logits: NDArray[np.float32] = answers[: len(images)].cpu().numpy()
        except RuntimeError as error:
            raise ModelError(f"the engine failed on {self.device}: {str(error).partition(chr(10))[0]}") from error
        return logits

    def _said(self) -> str:
        return "; ".join(self._logger.errors[-3:]) or "it gives no reason"


def find(model: str | Path) -> Path:
    """Return the engine that a path means.

    Raises:
        ModelNotFoundError: no such file, or no engine.
    """
    path = Path(model)
    if path.suffix != ".engine":
        raise ModelNotFoundError(
            f"the backend tensorrt runs .engine files, not {path}; fer export CHECKPOINT -o DIR --format tensorrt "
            "builds them"
        )
    if not path.is_file():
        raise ModelNotFoundError(f"no engine at {path}")
    return path


def open(file: Path, *, device: str, precision: str, batch_size: int, threads: int | None) -> EngineClassifier:
    """Return the classifier in an engine; see `EngineClassifier`.

    Raises:
        ModelNotFoundError: the engine is not of the asked-for precision.
    """
    del threads  # it runs on the GPU
    opened = EngineClassifier(file, device=device, batch_size=batch_size)
    if precision not in ("auto", opened.contract.precision):
        raise ModelNotFoundError(f"{file} computes in {opened.contract.precision}, not in {precision}")
    return opened


def _refuse_elsewhere(path: Path, record: EngineRecord, version: Any, gpu: Gpu) -> None:
    again = "or build it again here: fer export CHECKPOINT -o DIR --format tensorrt"
    if version != record.tensorrt:
        raise ProviderUnavailableError(
            f"{path} was built with TensorRT {record.tensorrt}, and {version} is installed: pip install "
            f"{PACKAGE}=={record.tensorrt}, {again}"
        )
    if (gpu.name, gpu.capability) != (record.gpu, record.capability):
        raise ProviderUnavailableError(
            f"{path} was built for {record.gpu} (compute capability {record.capability}), and cuda:{gpu.ordinal} is "
            f"{gpu.name} ({gpu.capability}): run it on such a GPU, {again}"
        )


def _place(gpu: Gpu) -> torch.device:
    return torch.device("cuda", gpu.ordinal)
