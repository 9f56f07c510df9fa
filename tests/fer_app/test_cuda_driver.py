from __future__ import annotations

import ctypes
import gc

import numpy as np
import pytest

from fer_app import cuda_driver
from fer_app.errors import ProviderUnavailableError


class StubDriver:
    """A driver with two devices, which hands out ordinary memory and keeps the books on it and on contexts."""

    NO_DEVICE, NO_MEMORY = 101, 2

    def __init__(self) -> None:
        self.memory: dict[int, object] = {}
        self.contexts: list[int] = []
        self.refuses: dict[str, int] = {}

    def __getattribute__(self, name):
        if name.startswith("cu") and name in self.refuses:
            return lambda *_: self.refuses[name]
        return super().__getattribute__(name)

    def cuInit(self, flags):  # noqa: N802 - the library's name, as below
        return 0

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = 2
        return 0

    def cuDriverGetVersion(self, version):  # noqa: N802
        version._obj.value = 12040
        return 0

    def cuDeviceGet(self, device, ordinal):  # noqa: N802
        device._obj.value = ordinal
        return 0 if ordinal < 2 else self.NO_DEVICE

    def cuDeviceGetName(self, text, size, device):  # noqa: N802
        text.value = b"Stub GPU %d" % device.value
        return 0

    def cuDevicePrimaryCtxRetain(self, context, device):  # noqa: N802
        context._obj.value = 1000 + device.value
        return 0

    def cuCtxPushCurrent_v2(self, context):  # noqa: N802
        self.contexts.append(context.value)
        return 0

    def cuCtxPopCurrent_v2(self, context):  # noqa: N802
        context._obj.value = self.contexts.pop()
        return 0

    def cuMemHostAlloc(self, address, size, flags):  # noqa: N802
        assert self.contexts
        assert flags == 1
        buffer = ctypes.create_string_buffer(b"\xff" * size.value, size.value)
        address._obj.value = ctypes.addressof(buffer)
        self.memory[ctypes.addressof(buffer)] = buffer
        return 0

    def cuMemFreeHost(self, address):  # noqa: N802
        assert self.contexts
        del self.memory[address.value]
        return 0

    def cuGetErrorString(self, code, text):  # noqa: N802
        text._obj.value = {self.NO_DEVICE: b"invalid device ordinal", self.NO_MEMORY: b"out of memory"}.get(code)
        return 0


@pytest.fixture
def driver(monkeypatch):
    stub = StubDriver()
    monkeypatch.setattr(cuda_driver, "_load", lambda: stub)
    cuda_driver._driver.cache_clear()
    cuda_driver._context.cache_clear()
    yield stub
    cuda_driver._driver.cache_clear()
    cuda_driver._context.cache_clear()


def test_devices(driver):
    assert cuda_driver.device_count() == 2
    assert cuda_driver.device_name(1) == "Stub GPU 1"
    assert cuda_driver.newest_cuda() == (12, 4)
    with pytest.raises(ProviderUnavailableError, match="cuDeviceGet: invalid device ordinal"):
        cuda_driver.device_name(2)


def test_locked_memory_lives_as_long_as_an_array_that_uses_it(driver):
    array = cuda_driver.locked_array((3, 2, 5), 1)
    assert (array.shape, array.dtype) == ((3, 2, 5), np.float32)
    assert not array.any()
    ((address, buffer),) = driver.memory.items()
    assert array.ctypes.data == address
    array[1, 1, 1] = 7
    part = array[1:]
    del array
    gc.collect()
    assert np.frombuffer(buffer, np.float32)[16] == 7
    assert part[0, 1, 1] == 7
    del part
    gc.collect()
    assert driver.memory == {}
    assert driver.contexts == []


def test_memory_for_nothing(driver):
    assert cuda_driver.locked_array((0, 8), 0).shape == (0, 8)


def test_what_the_driver_refuses_is_said_in_its_words(driver):
    driver.refuses["cuMemHostAlloc"] = driver.NO_MEMORY
    with pytest.raises(ProviderUnavailableError, match="cuMemHostAlloc: out of memory"):
        cuda_driver.locked_array((4,), 0)
    assert driver.contexts == []
    driver.refuses["cuMemHostAlloc"] = 999
    with pytest.raises(ProviderUnavailableError, match="error 999"):
        cuda_driver.locked_array((4,), 0)


def test_a_driver_that_does_not_start(driver):
    driver.refuses["cuInit"] = driver.NO_DEVICE
    for _ in range(2):
        with pytest.raises(ProviderUnavailableError, match="does not start: invalid device ordinal"):
            cuda_driver.device_count()


def test_without_a_driver(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(ProviderUnavailableError, match=r"(libcuda|nvcuda).*install the NVIDIA driver"):
        cuda_driver._load()


@pytest.mark.gpu
def test_a_real_driver():
    assert cuda_driver.device_count() >= 1
    assert cuda_driver.device_name(0)
    array = cuda_driver.locked_array((1000, 3), 0)
    assert not array.any()
    array += 1
    assert array.sum() == 3000
    with pytest.raises(ProviderUnavailableError, match="cuDeviceGet"):
        cuda_driver.device_name(cuda_driver.device_count())
