"""The few calls of NVIDIA's driver that ONNX Runtime does not make for us: naming devices, page-locked memory.

The driver's own library is asked, not CUDA's runtime: it comes with the driver and is the same for all CUDA versions.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fer_app.errors import ProviderUnavailableError

# Of cuda.h: page-locked for all contexts.
_PORTABLE = 1


def device_count() -> int:
    """Count the NVIDIA devices that CUDA_VISIBLE_DEVICES lets this process see.

    Raises:
        ProviderUnavailableError: the driver's library is missing or does not answer.
    """
    count = ctypes.c_int()
    _call("cuDeviceGetCount", ctypes.byref(count))
    return count.value


def newest_cuda() -> tuple[int, int]:
    """Return the newest CUDA version that the driver can run, as major and minor.

    Raises:
        ProviderUnavailableError: as `device_count`.
    """
    version = ctypes.c_int()
    _call("cuDriverGetVersion", ctypes.byref(version))
    return version.value // 1000, version.value % 1000 // 10


def device_name(ordinal: int) -> str:
    """Return what a device calls itself.

    Raises:
        ProviderUnavailableError: there is no such device.
    """
    text = ctypes.create_string_buffer(256)
    _call("cuDeviceGetName", text, len(text), _device(ordinal))
    return text.value.decode(errors="replace")


def locked_array(shape: tuple[int, ...], ordinal: int) -> npt.NDArray[np.float32]:
    """Reserve page-locked memory, which a device reads and writes without a copy in between.

    Args:
        shape: of the array.
        ordinal: of a device that will use it; others may as well.

    Returns:
        float32, of that shape, all zero. The memory is given back with the last array that uses it.

    Raises:
        ProviderUnavailableError: the driver does not give any.
    """
    count = math.prod(shape)
    size = ctypes.c_size_t(max(1, count) * ctypes.sizeof(ctypes.c_float))
    address = ctypes.c_void_p()
    with _current(ordinal):
        _call("cuMemHostAlloc", ctypes.byref(address), size, _PORTABLE)
    memory = (ctypes.c_float * max(1, count)).from_address(address.value or 0)
    # Not when Python ends: the driver may be gone by then, and the memory goes with the process.
    weakref.finalize(memory, _free, address, ordinal).atexit = False
    array: npt.NDArray[np.float32] = np.ctypeslib.as_array(memory)[:count].reshape(shape)
    array[...] = 0
    return array


def _free(address: ctypes.c_void_p, ordinal: int) -> None:
    with contextlib.suppress(ProviderUnavailableError), _current(ordinal):
        _call("cuMemFreeHost", address)


@contextlib.contextmanager
def _current(ordinal: int) -> Iterator[None]:
    """Make the context of a device, the one that ONNX Runtime uses too, this thread's."""
    context = _context(ordinal)
    _call("cuCtxPushCurrent_v2", context)
    try:
        yield
    finally:
        _call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))


@functools.cache
def _context(ordinal: int) -> ctypes.c_void_p:
    context = ctypes.c_void_p()
    _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), _device(ordinal))
    return context


def _device(ordinal: int) -> ctypes.c_int:
    device = ctypes.c_int()
    _call("cuDeviceGet", ctypes.byref(device), ordinal)
    return device


def _call(name: str, *arguments: Any) -> None:
    driver = _driver()
    if code := getattr(driver, name)(*arguments):
        raise ProviderUnavailableError(f"the NVIDIA driver refuses {name}: {_text(driver, code)}")


def _text(driver: Any, code: int) -> str:
    said = ctypes.c_char_p()
    driver.cuGetErrorString(code, ctypes.byref(said))
    return (said.value or b"").decode(errors="replace") or f"error {code}"


@functools.cache
def _driver() -> Any:
    driver = _load()
    if code := driver.cuInit(0):
        raise ProviderUnavailableError(f"the NVIDIA driver does not start: {_text(driver, code)}")
    return driver


def _load() -> Any:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise ProviderUnavailableError(f"{name} cannot be loaded; install the NVIDIA driver") from error
