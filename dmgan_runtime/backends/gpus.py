"""Which NVIDIA GPUs are here, asked of their driver itself: it needs no package, and no engine."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache

from dmgan_runtime.errors import BackendError

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_SUCCESS = 0
_NO_DEVICE = 100
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        index: N in `cuda:N`.
        name: As its driver calls it.
        compute_capability: Ten times the major version plus the minor one: 89 is sm_89.
        cuda: The newest CUDA version that the driver supports, for example "13.0".
    """

    index: int
    name: str
    compute_capability: int
    cuda: str


@cache
def find_gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process may use.

    Raises:
        BackendError: if there is no driver, or it fails. No GPU beside a driver is an empty tuple.
    """
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise BackendError(
            f"there is no NVIDIA driver ({_LIBRARY} cannot be loaded); install one, or start the container with"
            " --gpus all, or use the CPU"
        ) from None
    if (code := driver.cuInit(0)) == _NO_DEVICE:
        return ()
    _check("cuInit", code)
    version, count = ctypes.c_int(), ctypes.c_int()
    _check("cuDriverGetVersion", driver.cuDriverGetVersion(ctypes.byref(version)))
    _check("cuDeviceGetCount", driver.cuDeviceGetCount(ctypes.byref(count)))
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return tuple(_describe(driver, index, cuda) for index in range(count.value))


def find_gpu(index: int) -> Gpu:
    """The GPU of `cuda:index`.

    Raises:
        BackendError: if it is not there.
    """
    gpus = find_gpus()
    if not gpus:
        raise BackendError("the NVIDIA driver shows no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use the CPU")
    if index >= len(gpus):
        raise BackendError(f"there is no cuda:{index}; the GPUs here are cuda:0 to cuda:{len(gpus) - 1}")
    return gpus[index]


def _describe(driver: ctypes.CDLL, index: int, cuda: str) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _check("cuDeviceGet", driver.cuDeviceGet(ctypes.byref(device), index))
    _check("cuDeviceGetName", driver.cuDeviceGetName(name, _NAME_BYTES, device))
    for value, attribute in ((major, _COMPUTE_CAPABILITY_MAJOR), (minor, _COMPUTE_CAPABILITY_MINOR)):
        _check("cuDeviceGetAttribute", driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
    return Gpu(index, name.value.decode(errors="replace"), 10 * major.value + minor.value, cuda)


def _check(function: str, code: int) -> None:
    if code != _SUCCESS:
        raise BackendError(
            f"the NVIDIA driver fails: {function} returns {code}; check that nvidia-smi works here, and update the"
            " driver, or use the CPU"
        )
