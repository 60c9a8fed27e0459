# ruff: noqa: N802, N815 - the names are those of the real ones
"""CUDA and TensorRT without a GPU: device memory is the host's, and a plan is an ONNX file that ONNX Runtime runs."""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from dmgan_runtime.backends.driver import Gpu
from dmgan_runtime.engine_manifest import ENGINE_MANIFEST_NAME, BatchProfile, EngineManifest, PlanEntry
from dmgan_runtime.manifest import MANIFEST_NAME, ROLES, FileEntry, parse_manifest

GPU = Gpu(index=0, name="A fake", compute_capability=89, cuda="13.0")
VERSION = "11.4.0.106"
_OK, _INVALID, _OUT_OF_MEMORY = 0, 1, 2
_DTYPES = {"tensor(float)": ("FLOAT", np.float32), "tensor(int64)": ("INT64", np.int64)}


class FakeCuda:
    """The part of cuda.bindings.runtime that is used; it fails where CUDA would corrupt memory."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        self.device: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.captures: dict[int, list[Callable[[], None]]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.streams: set[int] = set()
        self.calls: Counter[str] = Counter()
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
        return _OK, self._new_block(self.device, size)

    def cudaMallocHost(self, size: int) -> tuple[int, int]:
        return _OK, self._new_block(self.pinned, size)

    def cudaFree(self, address: int) -> tuple[int]:
        return (_OK,) if self.device.pop(address, None) else (_INVALID,)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        return (_OK,) if self.pinned.pop(address, None) else (_INVALID,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        kinds = self.cudaMemcpyKind
        to = self.pinned if kind == kinds.cudaMemcpyDeviceToHost else self.device
        origin = self.pinned if kind == kinds.cudaMemcpyHostToDevice else self.device
        if not (self._owns(to, target, size) and self._owns(origin, source, size) and stream in self.streams):
            return (_INVALID,)
        ctypes.memmove(target, source, size)
        return (_OK,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        assert flags == self.cudaStreamNonBlocking
        self.streams.add(handle := self._next())
        return _OK, handle

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        self.streams.remove(stream)
        return (_OK,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (_OK,) if stream in self.streams else (_INVALID,)

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
        for work in self.graphs[graph]:
            work()
        return (_OK,)

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        del self.graphs[graph]
        return (_OK,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def in_a_thread_that_chose(self) -> bool:
        """Whether this thread has said which GPU it means."""
        return hasattr(self._current, "device")

    def _new_block(self, kind: dict[int, Any], size: int) -> int:
        block = (ctypes.c_uint8 * size)(*[0xAB] * min(size, 16))
        kind[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    @staticmethod
    def _owns(kind: dict[int, Any], address: int, size: int) -> bool:
        return any(start <= address and address + size <= start + len(block) for start, block in list(kind.items()))

    def _next(self) -> int:
        self._count += 1
        return self._count


def fake_tensorrt(cuda: FakeCuda) -> SimpleNamespace:
    """The part of the modules tensorrt and tensorrt_rtx that is used."""

    class ILogger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)

    class Context:
        def __init__(self, session: Any) -> None:
            self.session, self.shapes, self.addresses = session, {}, {}
            self.memory = self.memory_size = 0
            self.busy = threading.Lock()

        def set_device_memory(self, memory: int, size: int) -> None:
            self.memory, self.memory_size = memory, size

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            self.shapes[name] = shape
            return True

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            return True

        def execute_async_v3(self, stream: int) -> bool:
            if stream in cuda.captures:
                cuda.captures[stream].append(self.execute)
            else:
                self.execute()
            return True

        def execute(self) -> None:
            assert self.busy.acquire(blocking=False), "two threads in one context"
            assert self.memory in cuda.device
            assert len(cuda.device[self.memory]) == self.memory_size
            assert cuda.in_a_thread_that_chose()
            feeds = {}
            for node in self.session.get_inputs():
                feeds[node.name] = view(self.addresses[node.name], self.shapes[node.name], _DTYPES[node.type][1]).copy()
            for node, value in zip(self.session.get_outputs(), self.session.run(None, feeds), strict=True):
                view(self.addresses[node.name], value.shape, value.dtype)[...] = value
            self.busy.release()

    class Engine:
        def __init__(self, session: Any) -> None:
            self.session, self.contexts = session, []
            self.nodes = {node.name: node for node in (*session.get_inputs(), *session.get_outputs())}
            self.num_io_tensors, self.device_memory_size_v2 = len(self.nodes), 256

        def get_tensor_name(self, index: int) -> str:
            return list(self.nodes)[index]

        def get_tensor_dtype(self, name: str) -> Any:
            return SimpleNamespace(name=_DTYPES[self.nodes[name].type][0])

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(side if isinstance(side, int) else -1 for side in self.nodes[name].shape)

        def get_tensor_mode(self, name: str) -> str:
            return "in" if name in {node.name for node in self.session.get_inputs()} else "out"

        def create_runtime_config(self) -> Any:
            return SimpleNamespace(set_execution_context_allocation_strategy=lambda _: None)

        def create_execution_context(self, how: Any) -> Context:
            self.contexts.append(how)
            return Context(self.session)

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            try:
                return Engine(onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"]))
            except Exception:  # noqa: BLE001 - as little choosy as TensorRT
                self.log.log(ILogger.Severity.WARNING, "nothing")
                self.log.log(ILogger.Severity.ERROR, " magic tag does not match ")
                return None

    return SimpleNamespace(
        __version__=VERSION,
        ILogger=ILogger,
        Runtime=Runtime,
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
        CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph"),
    )


def view(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).view(dtype).reshape(shape)


def add_engine(bundle: Path, **changes: Any) -> EngineManifest:
    """Puts an engine into a bundle's folder, whose plans are the bundle's ONNX files."""
    source = parse_manifest((bundle / MANIFEST_NAME).read_bytes(), "the bundle")
    fields: dict[str, Any] = {
        "schema_version": "1.0",
        "engine": "tensorrt",
        "version": VERSION,
        "compute_capabilities": (GPU.compute_capability,),
        "device": GPU.name,
        "precision": "fp32",
        "profile": BatchProfile(min=1, opt=1, max=4),
        "version_compatible": False,
        "hardware_compatibility": "none",
        "plans": (),
    } | changes
    folder = bundle / "engines" / EngineManifest(**fields).folder
    folder.mkdir(parents=True)
    plans = []
    for role in ROLES:
        precision = "fp32" if role == "text_encoder" else fields["precision"]
        graph = source.graph(role, precision)
        assert graph is not None
        (folder / f"{role}.plan").write_bytes((bundle / graph.file.path).read_bytes())
        file = FileEntry.of(folder, f"{role}.plan")
        plans.append(PlanEntry(role=role, precision=precision, file=file, onnx_sha256=graph.file.sha256))
    manifest = EngineManifest(**(fields | {"plans": tuple(plans)}))
    (folder / ENGINE_MANIFEST_NAME).write_bytes(manifest.to_json())
    return manifest
