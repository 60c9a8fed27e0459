"""Which GPU this machine has, asked without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dmgan_runtime.errors import BackendError

_WITHOUT_ONE = (
    "tensorrt builds an engine on the GPU that will run it; build on that machine, or add --engine tensorrt_rtx,"
    " which builds without a GPU"
)


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: For example `NVIDIA L4`.
        compute_capability: Ten times its major version plus the minor one: 89 is sm_89.
    """

    name: str
    compute_capability: int


def find_gpu() -> Gpu:
    """The GPU that CUDA uses: the first one that it sees.

    Raises:
        BackendError: if there is none, or CUDA cannot be asked.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendError(
            f'cuda-bindings cannot be imported ({error}); install it with: pip install "dmgan[tensorrt]"'
        ) from error
    # Without a driver this question is answered with an error code; others would crash or mislead.
    status, count = runtime.cudaGetDeviceCount()
    if status != runtime.cudaError_t.cudaSuccess:
        raise BackendError(f"no GPU can be used here: CUDA says {_words(runtime, status)!r}; {_WITHOUT_ONE}")
    if count == 0:
        raise BackendError(f"there is no GPU here; {_WITHOUT_ONE}")
    status, properties = runtime.cudaGetDeviceProperties(0)
    if status != runtime.cudaError_t.cudaSuccess:
        raise BackendError(f"CUDA cannot describe the GPU: {_words(runtime, status)!r}; see what nvidia-smi says")
    return Gpu(properties.name.decode().rstrip("\0"), 10 * properties.major + properties.minor)


def _words(runtime: Any, status: Any) -> str:
    return str(runtime.cudaGetErrorString(status)[1].decode())
