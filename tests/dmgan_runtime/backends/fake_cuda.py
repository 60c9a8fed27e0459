# ruff: noqa: N802, N815 - the names are those of the real ones
"""CUDA without a GPU: device memory is the host's.

As on a GPU, what is put on a stream happens later: here, as late as it may, when the stream is waited for. Memory that
nothing has been written to holds 0xAB.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import dmgan_runtime

GARBAGE = 0xAB
_OK, _INVALID, _OUT_OF_MEMORY = 0, 1, 2
_PRODUCT = str(Path(dmgan_runtime.__file__).parent)


class Work(NamedTuple):
    """Something that is put on a stream: what it does, and the memory (address, size) that it uses."""

    run: Callable[[], None]
    uses: list[tuple[int, int]]


class FakeCuda:
    """The part of cuda.bindings.runtime that is used; it fails where CUDA would corrupt memory."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        self.device: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.captures: dict[int, list[Work]] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.streams: dict[int, list[Work]] = {}
        self.in_use: set[int] = set()
        self.calls: Counter[str] = Counter()
        self.frames = 0
        self.computing = self.most_at_once = 0
        self.memory_left = 2**30
        self.can_capture = True
        self._count = 100
        self._current = threading.local()

    def cudaGetErrorString(self, code: int) -> tuple[int, bytes]:
        return _OK, {_INVALID: b"invalid argument", _OUT_OF_MEMORY: b"out of memory"}[code]

    def cudaSetDevice(self, index: int) -> tuple[int]:
        self._current.device = index
        return (_OK,)

    def cudaMalloc(self, size: int) -> tuple[int, int | None]:
        if size > self.memory_left or not self.in_a_thread_that_chose():
            return _OUT_OF_MEMORY, None
        self.calls["cudaMalloc"] += 1
        self.memory_left -= size
        return _OK, _new_block(self.device, size)

    def cudaMallocHost(self, size: int) -> tuple[int, int]:
        return _OK, _new_block(self.pinned, size)

    def cudaFree(self, address: int) -> tuple[int]:
        self._check_unused(address)
        if (block := self.device.pop(address, None)) is None:
            return (_INVALID,)
        self.memory_left += len(block)
        return (_OK,)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        self._check_unused(address)
        return (_OK,) if self.pinned.pop(address, None) else (_INVALID,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        kinds = self.cudaMemcpyKind
        to = self.pinned if kind == kinds.cudaMemcpyDeviceToHost else self.device
        origin = self.pinned if kind == kinds.cudaMemcpyHostToDevice else self.device
        if not (_owns(to, target, size) and _owns(origin, source, size) and stream in self.streams):
            return (_INVALID,)
        ctypes.memset(target, GARBAGE, size)  # what it holds is undefined from here on
        self.put(stream, Work(lambda: ctypes.memmove(target, source, size), [(target, size), (source, size)]))
        return (_OK,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        assert flags == self.cudaStreamNonBlocking
        self.streams[handle := self._next()] = []
        return _OK, handle

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        del self.streams[stream]
        return (_OK,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        if stream not in self.streams:
            return (_INVALID,)
        self.computing += 1
        self.most_at_once = max(self.most_at_once, self.computing)
        try:
            while self.streams[stream]:
                self.streams[stream][0].run()
                del self.streams[stream][0]
        finally:
            self.computing -= 1
        return (_OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        self.captures[stream] = []
        return (_OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int | None]:
        work = self.captures.pop(stream)
        if not self.can_capture:
            return _INVALID, None
        self.graphs[handle := self._next()] = work
        return _OK, handle

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        self.graphs[handle := self._next()] = self.graphs[graph]
        return _OK, handle

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:
        self.calls["cudaGraphLaunch"] += 1
        self.frames = max(self.frames, frames_of_ours())
        for work in self.graphs[graph]:
            self.put(stream, work)
        return (_OK,)

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        del self.graphs[graph]
        return (_OK,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def in_a_thread_that_chose(self) -> bool:
        """Whether this thread has said which GPU it means."""
        return hasattr(self._current, "device")

    def put(self, stream: int, work: Work) -> None:
        """Puts something on a stream, or into what is captured of it."""
        self.captures.get(stream, self.streams[stream]).append(work)

    def _check_unused(self, address: int) -> None:
        waiting = [work for stream in list(self.streams.values()) for work in list(stream)]
        assert not any(address == start for work in waiting for start, _ in work.uses), (
            "freed while the GPU works there"
        )

    def _next(self) -> int:
        self._count += 1
        return self._count


def frames_of_ours() -> int:
    """How many functions of the runtime are on this thread's stack."""
    frame, found = sys._getframe(1), 0
    while frame is not None:
        found += frame.f_code.co_filename.startswith(_PRODUCT)
        frame = frame.f_back  # type: ignore[assignment]
    return found


def _new_block(kind: dict[int, Any], size: int) -> int:
    block = (ctypes.c_uint8 * size)()
    ctypes.memset(block, GARBAGE, size)
    kind[ctypes.addressof(block)] = block
    return ctypes.addressof(block)


def _owns(kind: dict[int, Any], address: int, size: int) -> bool:
    return any(start <= address and address + size <= start + len(block) for start, block in list(kind.items()))
