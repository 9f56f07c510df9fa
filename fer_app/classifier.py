"""Expression classifiers: from face crops to logits and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fer_app.bound_batches import BoundBatches
from fer_app.contract import METADATA_KEY, Contract
from fer_app.errors import InputError, ModelContractError, ModelError
from fer_app.preprocess import softmax, to_input
from fer_app.session import DEFAULT_GPU, GpuOptions, Session, open_session, parse_device

INPUT_NAME = "images"
OUTPUT_NAME = "logits"
# Further outputs that a file may have, and their axes; K is the number of labels, the others are any.
FEATURES, EVIDENCE, ATTENTION = "features", "evidence", "attention"
_FURTHER_OUTPUTS = {FEATURES: "batch D", EVIDENCE: "batch K h w", ATTENTION: "batch K h w"}
Crops = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]


@runtime_checkable
class Classifier(Protocol):
    """What the recognizer needs of a classifier, whatever computes it.

    Attributes:
        contract: what the classifier expects and what its outputs mean.
        device: where it runs, such as `cpu` or `cuda:0`.
    """

    @property
    def contract(self) -> Contract: ...  # noqa: D102 - described above

    @property
    def device(self) -> str: ...  # noqa: D102 - described above

    def logits(self, crops: Crops) -> NDArray[np.float32]:
        """Return float32 (N, K) logits of uint8 crops, (N, h, w, 3) or N pictures of any sizes; N may be 0."""
        ...

    def probs(self, crops: Crops) -> NDArray[np.float32]:
        """Return float32 (N, K) probabilities of the crops, with the contract's temperature."""
        ...


class OnnxClassifier:
    """A classifier in an ONNX file that carries its contract."""

    def __init__(
        self,
        path: Path | str,
        *,
        device: str = "auto",
        batch_size: int = 32,
        threads: int | None = None,
        gpu: GpuOptions = DEFAULT_GPU,
    ) -> None:
        """Load the file and hold its contract against its inputs and outputs.

        Args:
            path: the ONNX file.
            device: see `fer_app.session.open_session`.
            batch_size: at most this many faces go through the network at once.
            threads: CPU threads; `None` is one per physical core.
            gpu: what is asked of a CUDA device.

        Raises:
            InputError: `batch_size` is below 1, there is no such device name, or the device does not have what `gpu`
                asks for.
            ModelError: no such file, no usable device, or the contract is missing or does not fit.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, must be at least 1")
        self._path = Path(path)
        self._session = open_session(self._path, device=device, threads=threads, gpu=gpu, largest_batch=batch_size)
        self._batch_size = batch_size
        self._contract = read_contract(self._session, str(self._path))
        self._bound: BoundBatches | None = None
        if parse_device(self._session.device).kind == "cuda":
            self._bound = BoundBatches(self._session, batch_size, graphs=gpu.graphs)

    @property
    def contract(self) -> Contract:
        """What the file says about itself."""
        return self._contract

    @property
    def device(self) -> str:
        """Where it runs, such as `cpu` or `cuda:0`."""
        return self._session.device

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the network's outputs: `logits`, and which of `features`, `evidence` and `attention` it has."""
        return self._session.output_names

    @property
    def note(self) -> str:
        """Why `auto` did not take the accelerator that it saw; empty otherwise."""
        return self._session.note

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
        if self._bound is not None:
            return self._bound.run(len(crops), lambda rows, place: to_input(crops[rows], self._contract, out=place))
        return self._run(OUTPUT_NAME, crops)

    def probs(self, crops: Crops) -> NDArray[np.float32]:
        """Like `logits`, then softmax with the contract's temperature."""
        return softmax(self.logits(crops), self._contract.temperature)

    def features(self, crops: Crops) -> NDArray[np.float32]:
        """Return float32 (N, D), what the head sees of each crop; N may be 0.

        Raises:
            InputError, ModelError: as `logits`; ModelError too when the file has no such output.
        """
        return self._run(FEATURES, crops)

    def evidence(self, crops: Crops) -> NDArray[np.float32]:
        """Return what each patch says for each label: float32, (N, K, h, w); N may be 0.

        Its mean over the patches is the logits, to rounding.

        Raises:
            InputError, ModelError: as `logits`; ModelError too when the file has no such output, as for networks that
                classify by a class token.
        """
        return self._run(EVIDENCE, crops)

    def attention(self, crops: Crops) -> NDArray[np.float32]:
        """Return where a label decoder looked for each label: float32, (N, K, h, w), each map sums to 1; N may be 0.

        Raises:
            InputError, ModelError: as `logits`; ModelError too when the file has no such output, as for networks
                without a label decoder.
        """
        return self._run(ATTENTION, crops)

    def _run(self, output: str, crops: Crops) -> NDArray[np.float32]:
        if output not in self.outputs:
            raise ModelError(f"{self._path} has no output {output!r}; its outputs are {', '.join(self.outputs)}")
        if not len(crops):
            sizes = self._session.output_shapes[self.outputs.index(output)][1:]
            return np.zeros((0, *(size if isinstance(size, int) else 0 for size in sizes)), np.float32)
        chunks = []
        for start in range(0, len(crops), self._batch_size):
            inputs = to_input(crops[start : start + self._batch_size], self._contract)
            chunks += self._session.run({INPUT_NAME: inputs}, [output])
        return np.concatenate(chunks)


def read_contract(session: Session, name: str) -> Contract:
    """Read the contract out of an ONNX classifier and check that it fits the network.

    Args:
        session: the loaded file.
        name: how to call the file in errors.

    Raises:
        ModelContractError: there is no contract, or it disagrees with the inputs and outputs; the message names both.
    """
    text = session.metadata.get(METADATA_KEY)
    if text is None:
        raise ModelContractError(
            f"{name} carries no contract (metadata key {METADATA_KEY}); it was not made by `fer export`; "
            "`fer contract init` writes one into a copy"
        )
    try:
        contract = Contract.from_json(text)
    except ModelContractError as error:
        raise ModelContractError(f"{name}: {error}") from error
    has = _signature(session)
    side, classes = contract.img_size, len(contract.labels)
    expected = (
        f"{INPUT_NAME} tensor(float) (batch, {contract.in_chans}, {side}, {side}) -> {OUTPUT_NAME} (batch, {classes})"
    )
    for further, sizes in zip(session.output_names[1:], session.output_shapes[1:], strict=True):
        axes = _FURTHER_OUTPUTS.get(further, "").split()
        if len(axes) == len(sizes):  # any other is written down, and is one too many
            wanted = [classes if axis == "K" else size for axis, size in zip(axes, sizes, strict=True)]
            expected += f", {further} {_shape(wanted)}"
    if has != expected:
        raise ModelContractError(f"{name}: the contract says {expected}, but the network is {has}")
    return contract


def _signature(session: Session) -> str:
    """Write the network's inputs and outputs in one line."""
    inputs = [
        f"{name} {kind} {_shape(sizes)}"
        for name, kind, sizes in zip(session.input_names, session.input_types, session.input_shapes, strict=True)
    ]
    outputs = [
        f"{name} {_shape(sizes)}" for name, sizes in zip(session.output_names, session.output_shapes, strict=True)
    ]
    return f"{', '.join(inputs)} -> {', '.join(outputs)}"


def _shape(sizes: Sequence[int | str | None]) -> str:
    """Write a shape; the first axis reads `batch` when its size is free."""
    free_batch = ["batch" if i == 0 and not isinstance(size, int) else str(size) for i, size in enumerate(sizes)]
    return f"({', '.join(free_batch)})"
