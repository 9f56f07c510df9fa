"""The speed of a large matrix product, which no network exceeds: the measure for a network's speed.

The network that multiplies is written here byte by byte (ONNX is Protocol Buffers), as the base install has no `onnx`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fer_app.contract import Precision
from fer_app.session import open_session, parse_device, runtime

# The larger the faster, but a short run is more likely to be undisturbed on a machine that does other things.
_CPU_SIDES, _GPU_SIDES = (256, 512, 1024), (4096, 8192)


class _Kind(NamedTuple):
    """A product's operator, and ONNX's numbers for the types of its two factors and its result."""

    operator: str
    factors: tuple[int, int]
    result: int


# ONNX Runtime's quick 8-bit product on CPUs is that of unsigned and signed numbers.
_KINDS: dict[Precision, _Kind] = {
    "fp32": _Kind("MatMul", (1, 1), 1),
    "fp16": _Kind("MatMul", (10, 10), 10),
    "int8": _Kind("MatMulInteger", (2, 3), 6),
}
_TYPES: dict[int, type[np.generic]] = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 10: np.float16}


def arithmetic_of(precision: Precision, device: str) -> Precision | None:
    """Return in which arithmetic a device computes a network's products; None where no product here is like it."""
    kind = parse_device(device).kind
    if kind == "tensorrt":
        return None if precision == "int8" else precision
    # What a device has no quick arithmetic for, ONNX Runtime computes in float32.
    return precision if precision == ("fp16" if kind == "cuda" else "int8") else "fp32"


def sides(device: str) -> tuple[int, ...]:
    """Return the sizes of products to look for a device's full speed with."""
    return _CPU_SIDES if parse_device(device).kind == "cpu" else _GPU_SIDES


class Product:
    """A product of two square matrices, the second one constant, as a layer's weights are.

    Attributes:
        side: rows and columns.
        flop: multiplications and additions of one run.
    """

    def __init__(self, arithmetic: Precision, side: int, device: str, threads: int | None = None) -> None:
        """Make the matrices; on a GPU they lie there.

        Args:
            arithmetic: of the factors.
            side: rows and columns.
            device: `cpu`, `cuda:0`, ...
            threads: CPU threads; None is one per physical core.

        Raises:
            ProviderUnavailableError: the device cannot be used.
        """
        where = parse_device(device)
        self.side = side
        self.flop = 2 * side**3
        operator, types, result = _KINDS[arithmetic]
        # Whole numbers from 0 on: exact in every arithmetic.
        self.left, self.right = (
            np.random.default_rng(seed).integers(0, 4, (side, side)).astype(_TYPES[number])
            for seed, number in enumerate(types)
        )
        self._inference = open_session(
            _model(operator, types, result, self.right), device=device, threads=threads
        ).inference
        self._binding = self._inference.io_binding()
        value = runtime().OrtValue.ortvalue_from_numpy(self.left, where.kind, where.ordinal)
        self._binding.bind_ortvalue_input("left", value)
        self._binding.bind_output("product", where.kind, where.ordinal)

    def run(self) -> None:
        """Multiply once; the result stays where it is."""
        self._inference.run_with_iobinding(self._binding)

    def result(self) -> npt.NDArray[np.generic]:
        """Return what the last run computed: (side, side)."""
        (product,) = self._binding.copy_outputs_to_cpu()
        return np.asarray(product)


def _model(operator: str, types: Sequence[int], result: int, right: npt.NDArray[np.generic]) -> bytes:
    """Return the ONNX file of left x right = product; field numbers are those of onnx.proto."""
    node = _text(1, "left") + _text(1, "right") + _text(2, "product") + _text(4, operator)
    weights = b"".join(_number(1, size) for size in right.shape) + _number(2, types[1])
    weights += _text(8, "right") + _bytes(9, right.tobytes())
    graph = _bytes(1, node) + _text(2, "product") + _bytes(5, weights)
    graph += _bytes(11, _value("left", types[0], right.shape)) + _bytes(12, _value("product", result, right.shape))
    return _number(1, 8) + _bytes(8, _text(1, "") + _number(2, 17)) + _bytes(7, graph)


def _value(name: str, number: int, shape: Sequence[int]) -> bytes:
    sizes = b"".join(_bytes(1, _number(1, size)) for size in shape)
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, number) + _bytes(2, sizes)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth bit says that more follow."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
