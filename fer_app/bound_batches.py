"""Batches on a GPU: memory that is reserved once, and the next batch prepared while others run.

`Session.run` takes an array as it comes: ONNX Runtime copies it through memory of its own to the device and waits. Here
inputs and outputs lie in page-locked memory that is bound to the session, so that the device fetches and writes them by
itself. With CUDA graphs they also have a fixed place on the device.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fer_app.cuda_driver import locked_array
from fer_app.session import Session, parse_device, runtime

Float32 = npt.NDArray[np.float32]

# Two on the device: the copies of one go beside the arithmetic of the other. One more is being written.
_RUNNING = 2


class _Slot(NamedTuple):
    """Memory of one batch.

    Attributes:
        inputs: float32, (most, ...).
        outputs: float32, (most, ...).
    """

    inputs: Float32
    outputs: Float32


class BoundBatches:
    """Runs a network of one input and one output, whose first axis is free, on any number of rows.

    Several threads may call `run`; they take turns.
    """

    def __init__(self, session: Session, most: int, *, graphs: bool = False) -> None:
        """Reserve the memory.

        Args:
            session: the network, open; of several outputs the first one is computed.
            most: rows of the largest batch.
            graphs: give every batch a fixed place on the device, as a session that was opened with
                `GpuOptions(graphs=True)` demands; batches are filled up to a few sizes (1, 2, 4, ... `most`).

        Raises:
            ProviderUnavailableError: the driver gives no page-locked memory.
        """
        self._session = session
        self._most = most
        # ONNX Runtime records a graph for the thread that runs it, and allows no second one.
        running = 1 if graphs else _RUNNING
        shapes = [
            (most, *(int(size or 0) for size in of[0][1:])) for of in (session.input_shapes, session.output_shapes)
        ]
        self._slots = [_Slot(*(_host_array(shape, session.device) for shape in shapes)) for _ in range(running + 1)]
        self._threads = ThreadPoolExecutor(running, "batches")
        self._resident: dict[int, _Resident] | None = {} if graphs else None
        self._turn = threading.Lock()

    def run(self, count: int, write: Callable[[slice, Float32], object]) -> Float32:
        """Run all rows.

        Args:
            count: how many; may be 0.
            write: called with a range of rows and the place for them, float32, (rows, ...), to be filled.

        Returns:
            float32, (count, ...), the output for every row.

        Raises:
            ModelError: the device failed.
        """
        results = np.empty((count, *self._slots[0].outputs.shape[1:]), np.float32)
        running: deque[Future[None]] = deque()
        with self._turn:
            try:
                for start, slot in zip(range(0, count, self._most), itertools.cycle(self._slots), strict=False):
                    if len(running) == len(self._slots):
                        # The oldest one has this slot.
                        running.popleft().result()
                    rows = slice(start, min(count, start + self._most))
                    write(rows, slot.inputs[: rows.stop - start])
                    running.append(self._threads.submit(self._run, slot, results[rows]))
            finally:
                wait(running)
        for one in running:
            one.result()
        return results

    def _run(self, slot: _Slot, results: Float32) -> None:
        count = len(results)
        try:
            if self._resident is None:
                self._bound(slot.inputs[:count], slot.outputs[:count])
            else:
                size = min(self._most, 1 << (count - 1).bit_length())
                if size not in self._resident:
                    self._resident[size] = _Resident(self._session, slot, size)
                self._resident[size].run(slot.inputs[:size], slot.outputs[:size])
        except Exception as error:
            raise self._session.failure(error) from error
        results[...] = slot.outputs[:count]

    def _bound(self, inputs: Float32, outputs: Float32) -> None:
        session, value = self._session, runtime().OrtValue
        binding = session.inference.io_binding()
        binding.bind_ortvalue_input(session.input_names[0], value.ortvalue_from_numpy(inputs))
        binding.bind_ortvalue_output(session.output_names[0], value.ortvalue_from_numpy(outputs))
        session.inference.run_with_iobinding(binding)


class _Resident:
    """Batches of one size whose input and output stay where they are on the device."""

    def __init__(self, session: Session, like: _Slot, size: int) -> None:
        """Reserve the memory on the device; the first run records the graph.

        Args:
            session: the network.
            like: has the shapes of input and output but for the first axis.
            size: of the batch; also the number of its graph.
        """
        self._inference = session.inference
        device = parse_device(session.device)
        make = runtime().OrtValue.ortvalue_from_shape_and_type
        self._inputs, self._outputs = (
            make([size, *array.shape[1:]], np.float32, device.kind, device.ordinal) for array in like
        )
        self._binding = session.inference.io_binding()
        self._binding.bind_ortvalue_input(session.input_names[0], self._inputs)
        self._binding.bind_ortvalue_output(session.output_names[0], self._outputs)
        self._options: Any = runtime().RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(size))

    def run(self, inputs: Float32, outputs: Float32) -> None:
        """Copy a batch to the device, run, and copy the result back."""
        self._inputs.update_inplace(inputs)
        self._inference.run_with_iobinding(self._binding, self._options)
        outputs[...] = self._outputs.numpy()


def _host_array(shape: tuple[int, ...], device: str) -> Float32:
    asked = parse_device(device)
    return np.zeros(shape, np.float32) if asked.kind == "cpu" else locked_array(shape, asked.ordinal)
