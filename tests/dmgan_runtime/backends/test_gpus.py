from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest

from dmgan_runtime import BackendError
from dmgan_runtime.backends import gpus


class FakeDriver:
    """libcuda.so.1 of a machine with two GPUs."""

    def __init__(self) -> None:
        self.init_code, self.count, self.name_code = 0, 2, 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.init_code

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = 12080
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = 10 + index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:  # noqa: N802
        name.value = f"GPU {device.value}".encode()
        return self.name_code

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: 9}[attribute]
        return 0


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    fake = FakeDriver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: fake)
    gpus.find_gpus.cache_clear()
    yield fake
    gpus.find_gpus.cache_clear()


def test_gpus_are_described(fake: FakeDriver) -> None:
    assert gpus.find_gpus()[1] == gpus.Gpu(index=1, name="GPU 11", compute_capability=89, cuda="12.8")
    assert gpus.find_gpu(0).name == "GPU 10"


def test_a_gpu_that_is_not_there_is_named(fake: FakeDriver) -> None:
    with pytest.raises(BackendError, match="no cuda:2; the GPUs here are cuda:0 to cuda:1"):
        gpus.find_gpu(2)


def test_a_driver_without_a_gpu(fake: FakeDriver) -> None:
    fake.init_code = 100
    assert gpus.find_gpus() == ()
    with pytest.raises(BackendError, match="shows no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES"):
        gpus.find_gpu(0)


@pytest.mark.parametrize(("field", "function"), [("init_code", "cuInit"), ("name_code", "cuDeviceGetName")])
def test_a_driver_that_fails_is_named(fake: FakeDriver, field: str, function: str) -> None:
    setattr(fake, field, 999)
    with pytest.raises(BackendError, match=f"{function} returns 999; check that nvidia-smi works"):
        gpus.find_gpus()


def test_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_LIBRARY", "libno-such-gpus.so")
    gpus.find_gpus.cache_clear()
    with pytest.raises(BackendError, match=r"no NVIDIA driver \(libno-such-gpus.so cannot be loaded\)"):
        gpus.find_gpu(0)
