"""CUDA's memory, streams and graphs through cuda-bindings: every error code becomes an error."""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dmgan_runtime.backends.tensorrt.api import without_garbage_collection
from dmgan_runtime.errors import EngineError

_LOG = logging.getLogger(__name__)


def import_runtime() -> Any:
    """The module `cuda.bindings.runtime`."""
    from cuda.bindings import runtime

    return runtime


class Cuda:
    """CUDA's runtime on one GPU."""

    def __init__(self, runtime: Any, index: int) -> None:
        """Args:
        runtime: `cuda.bindings.runtime`.
        index: N of `cuda:N`.
        """
        self._runtime = runtime
        self._index = index
        self._can_capture = True

    def call(self, function: str, *arguments: Any) -> Any:
        """Calls a function of the runtime and returns its value, if it has one.

        Raises:
            EngineError: if it returns an error code.
        """
        code, *values = getattr(self._runtime, function)(*arguments)
        if int(code) != 0:
            _, name = self._runtime.cudaGetErrorString(code)
            reason = name.decode() if isinstance(name, bytes) else code
            raise EngineError(
                f"cuda:{self._index}: {function} failed: {reason}; see nvidia-smi for what else uses the GPU"
            )
        return values[0] if values else None

    def release(self, function: str, *arguments: Any) -> None:
        """Calls a function that waits for, frees or destroys something.

        Its error code is left out of account: it is often that of an earlier failure, and the rest is to be freed too.
        """
        getattr(self._runtime, function)(*arguments)

    def enter_thread(self) -> None:
        """Makes this GPU the current one; CUDA remembers that for each thread.

        Raises:
            EngineError: if the GPU fails.
        """
        self.call("cudaSetDevice", self._index)

    def wait_for(self, stream: Any) -> None:
        """Makes this GPU the current one, and waits until it has done what is on a stream, whatever came of it."""
        self.release("cudaSetDevice", self._index)
        self.release("cudaStreamSynchronize", stream)

    def copy(self, target: int, source: int, size: int, kind: str, stream: Any) -> None:
        """Puts a copy on a stream.

        Args:
            target: Address.
            source: Address.
            size: In bytes.
            kind: `HostToDevice` or `DeviceToHost`.
            stream: A stream of `new_stream`.
        """
        direction = getattr(self._runtime.cudaMemcpyKind, f"cudaMemcpy{kind}")
        self.call("cudaMemcpyAsync", target, source, size, direction, stream)

    def new_stream(self) -> Any:
        """A stream that does not wait for the default one."""
        return self.call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)

    def capture(self, stream: Any, work: Callable[[], None]) -> Any | None:
        """Records what `work` puts on a stream, without running it, as a CUDA graph for `cudaGraphLaunch`.

        Returns:
            The graph; None if it cannot be recorded. That is logged once, and nothing is recorded on this GPU any more.
        """
        with without_garbage_collection():
            if not self._can_capture:
                return None
            try:
                return self._capture(stream, work)
            except EngineError as error:
                self._can_capture = False
                _LOG.warning("TensorRT runs without CUDA graphs, which is slower: %s", str(error))
                return None

    def _capture(self, stream: Any, work: Callable[[], None]) -> Any:
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            # The stream stays in capture mode until that is ended, whatever was recorded.
            self.release("cudaStreamEndCapture", stream)
            raise
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            return self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self.release("cudaGraphDestroy", graph)


class DeviceTensor:
    """A tensor on a GPU."""

    def __init__(self, cuda: Cuda, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Allocates a tensor; its content is whatever was there.

        Raises:
            EngineError: if there is not enough memory.
        """
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.size = math.prod(shape) * self.dtype.itemsize
        self._cuda = cuda
        self.address = int(cuda.call("cudaMalloc", self.size))

    def free(self) -> None:
        """Frees it. The GPU must not be using it."""
        self._cuda.release("cudaFree", self.address)


class PinnedBuffer:
    """Host memory that the GPU reads and writes by itself. It grows as it must."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._address = 0
        self._size = 0

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes; what was there is lost. The GPU must not be using it."""
        if size > self._size:
            self.free()
            self._address, self._size = int(self._cuda.call("cudaMallocHost", size)), size
        return self._address

    def view(self, offset: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The bytes from `offset` on, as an array that shares them."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        raw = (ctypes.c_uint8 * size).from_address(self._address + offset)
        array: npt.NDArray[Any] = np.ctypeslib.as_array(raw).view(dtype).reshape(shape)
        return array

    def free(self) -> None:
        """Frees it. The GPU must not be using it."""
        if self._size:
            self._cuda.release("cudaFreeHost", self._address)
        self._address = self._size = 0
