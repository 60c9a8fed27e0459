"""CUDA's memory, streams and graphs through cuda-bindings: every error code becomes an error."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from dmgan_runtime.errors import BackendError, EngineError


def import_runtime() -> Any:
    """The module `cuda.bindings.runtime`.

    Raises:
        BackendError: if it cannot be imported.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendError(
            f'cuda-bindings cannot be imported ({error}); install it with: pip install "dmgan[tensorrt]"'
        ) from error
    return runtime


class Cuda:
    """One GPU. Its device memory is kept for reuse until `close`."""

    def __init__(self, runtime: Any, index: int) -> None:
        """Args:
        runtime: `cuda.bindings.runtime`.
        index: N of `cuda:N`.
        """
        self._runtime = runtime
        self._index = index
        # Appending to and popping from a list are atomic; a lock could be held by the very thread in which the garbage
        # collector frees a tensor.
        self._idle: dict[int, list[int]] = {}
        self._closed = False

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
                f"cuda:{self._index}: {function} failed: {reason}; try fewer images at once, or see nvidia-smi for"
                " what else uses the GPU"
            )
        return values[0] if values else None

    def enter_thread(self) -> None:
        """Makes this GPU the current one; CUDA remembers that for each thread."""
        self.call("cudaSetDevice", self._index)

    def take(self, size: int) -> int:
        """The address of device memory of `size` bytes, given back or new.

        Raises:
            EngineError: if there is no more, even after what lies idle was freed.
        """
        try:
            return self._idle[size].pop()
        except (KeyError, IndexError):
            pass
        try:
            return int(self.call("cudaMalloc", size))
        except EngineError:
            self._free_idle()
            return int(self.call("cudaMalloc", size))

    def give_back(self, address: int, size: int) -> None:
        """Takes memory back. Nothing may be using it."""
        if self._closed:
            self._runtime.cudaFree(address)
        else:
            self._idle.setdefault(size, []).append(address)

    def close(self) -> None:
        """Frees what was given back; what is still out is freed when it comes."""
        self._closed = True
        self._free_idle()

    def _free_idle(self) -> None:
        for addresses in list(self._idle.values()):
            with suppress(IndexError):  # another thread took the last one
                while True:
                    self._runtime.cudaFree(addresses.pop())

    def copy(self, target: int, source: int, size: int, kind: str, stream: Any) -> None:
        """Puts a copy on a stream.

        Args:
            target: Address.
            source: Address.
            size: In bytes.
            kind: `HostToDevice`, `DeviceToHost` or `DeviceToDevice`.
            stream: A stream of `new_stream`.
        """
        direction = getattr(self._runtime.cudaMemcpyKind, f"cudaMemcpy{kind}")
        self.call("cudaMemcpyAsync", target, source, size, direction, stream)

    def new_stream(self) -> Any:
        """A stream that does not wait for the default one."""
        return self.call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """Records what `work` puts on a stream, without running it, as a CUDA graph for `cudaGraphLaunch`."""
        self.call(
            "cudaStreamBeginCapture", stream, self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )
        try:
            work()
        except BaseException:
            # The stream stays in capture mode until it is ended, whatever the capture was worth.
            self._runtime.cudaStreamEndCapture(stream)
            raise
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            return self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self.call("cudaGraphDestroy", graph)


class DeviceTensor:
    """A tensor on a GPU, whose memory goes back when it is no longer referred to."""

    def __init__(self, cuda: Cuda, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Takes memory for a tensor; its content is whatever was there."""
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.size = math.prod(shape) * self.dtype.itemsize
        self.address = cuda.take(self.size)
        weakref.finalize(self, cuda.give_back, self.address, self.size).atexit = False


class PinnedBuffer:
    """Host memory that the GPU reads and writes by itself. It grows as it must."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._address = 0
        self._size = 0

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes; what was there is lost."""
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
        """Frees it."""
        if self._size:
            self._cuda.call("cudaFreeHost", self._address)
        self._address = self._size = 0
