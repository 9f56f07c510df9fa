"""The backend `torch`: a checkpoint computed by PyTorch, for GPUs that ONNX Runtime's GPU build cannot use.

On CUDA the network is compiled (`torch.compile`) and runs in bf16 unless another precision is asked for; on a CPU it
runs as it is, in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from fer_app.classifier import Crops
from fer_app.contract import Contract, Precision
from fer_app.errors import CheckpointError, InputError, ModelError, ModelNotFoundError, ProviderUnavailableError
from fer_app.preprocess import softmax, to_input
from training.checkpoint import checkpoint_at
from training.evaluation import has_bf16, load_classifier, torch_device

_DTYPES: Final[dict[str, tuple[Precision, torch.dtype]]] = {
    "fp32": ("fp32", torch.float32),
    "fp16": ("fp16", torch.float16),
    "bf16": ("bf16", torch.bfloat16),
}


class TorchBackendClassifier:
    """A checkpoint behind the protocol `fer_app.classifier.Classifier`."""

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 32,
        threads: int | None = None,
        compiled: bool | None = None,
    ) -> None:
        """Load the checkpoint.

        Args:
            path: a `.safetensors` classifier.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            precision: `fp32`, `fp16`, `bf16`, or `auto`: bf16 on a GPU that has it, else float32. In 16 bits weights
                and sums stay float32, products are of 16 bits (autocast).
            batch_size: at most this many faces go through the network at once.
            threads: CPU threads of PyTorch in this process; `None` leaves them as they are.
            compiled: whether the network is compiled, in its first runs; `None` compiles on CUDA only.

        Raises:
            InputError: no such device or precision, or `batch_size` is below 1.
            CheckpointError: the file cannot be read or is no classifier.
            ProviderUnavailableError: torch cannot run there, or the GPU has no bf16.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, must be at least 1")
        self._device = torch_device(device)
        name, self._dtype = _arithmetic(precision, self._device)
        model, info = load_classifier(path)
        if info.contract is None:
            raise CheckpointError(f"{path} has no contract")
        if threads is not None:
            torch.set_num_threads(threads)
        self._contract = info.contract.replace(precision=name)
        self._batch_size = batch_size
        self._network = model.to(self._device).requires_grad_(False)
        if self._device.type == "cuda" if compiled is None else compiled:
            self._network.compile(dynamic=True)  # one program for all numbers of faces

    @property
    def contract(self) -> Contract:
        """What the checkpoint says about itself, with the precision that it runs in."""
        return self._contract

    @property
    def device(self) -> str:
        """Where it runs, such as `cpu` or `cuda:0`."""
        return str(self._device)

    @property
    def note(self) -> str:
        """What computes it, and how."""
        return f"PyTorch, {self._contract.precision}"

    def logits(self, crops: Crops) -> NDArray[np.float32]:
        """Classify crops.

        Args:
            crops: uint8, (N, h, w, 3) RGB or (N, h, w) grey, or N such pictures of any sizes; N may be 0.

        Returns:
            float32, (N, K), in the order of `contract.labels`.

        Raises:
            InputError: the crops are not uint8 or have another shape.
            ModelError: the run failed: no memory left on the device, or the network could not be compiled.
        """
        chunks = [np.zeros((0, len(self._contract.labels)), np.float32)]
        for start in range(0, len(crops), self._batch_size):
            images = torch.from_numpy(to_input(crops[start : start + self._batch_size], self._contract))
            chunks.append(self._run(images))
        return np.concatenate(chunks)

    def probs(self, crops: Crops) -> NDArray[np.float32]:
        """Like `logits`, then softmax with the contract's temperature."""
        return softmax(self.logits(crops), self._contract.temperature)

    @torch.inference_mode()
    def _run(self, images: torch.Tensor) -> NDArray[np.float32]:
        try:
            if self._device.type == "cuda":
                images = images.pin_memory()
            images = images.to(self._device, non_blocking=True)
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                logits: NDArray[np.float32] = self._network(images).float().cpu().numpy()
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise ModelError(f"PyTorch failed on {self._device}: {type(error).__name__}: {reason}") from error
        return logits


def find(model: str | Path) -> Path:
    """Return the checkpoint that a name or a path means; those of bundled models are known by name.

    Raises:
        ModelNotFoundError: no such file, or no checkpoint.
        CheckpointError: this installation carries no bundled checkpoint.
    """
    path = checkpoint_at(model)
    if path.suffix != ".safetensors":
        raise ModelNotFoundError(f"the backend torch runs .safetensors checkpoints, not {path}")
    if not path.is_file():
        raise ModelNotFoundError(f"no checkpoint at {path}")
    return path


def open(file: Path, *, device: str, precision: str, batch_size: int, threads: int | None) -> TorchBackendClassifier:
    """Return the classifier in a checkpoint; see `TorchBackendClassifier`."""
    return TorchBackendClassifier(file, device=device, precision=precision, batch_size=batch_size, threads=threads)


def _arithmetic(precision: str, device: torch.device) -> tuple[Precision, torch.dtype]:
    if precision == "auto":
        return _DTYPES["bf16" if device.type == "cuda" and has_bf16(device) else "fp32"]
    if precision not in _DTYPES:
        raise InputError(f"the backend torch has no {precision}; it has {', '.join(_DTYPES)}")
    if precision == "bf16" and not has_bf16(device):
        raise ProviderUnavailableError(f"{device} has no bf16: use --precision fp16 or fp32")
    return _DTYPES[precision]
