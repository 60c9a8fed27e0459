"""TensorRT without a GPU, over `fake_cuda`: a plan is an ONNX file that ONNX Runtime runs."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from dmgan_runtime.backends.built_engines import (
    ENGINE_MANIFEST_NAME,
    ENGINE_SCHEMA_VERSION,
    BatchProfile,
    EngineManifest,
    PlanEntry,
    record_built_here,
)
from dmgan_runtime.backends.gpus import Gpu
from dmgan_runtime.manifest import MANIFEST_NAME, FileEntry, parse_manifest
from tests.dmgan_runtime.backends.fake_cuda import FakeCuda, Work, frames_of_ours

GPU = Gpu(index=0, name="A fake", compute_capability=89, cuda="13.0")
VERSION = "11.4.0.106"
_DTYPES = {"tensor(float)": ("FLOAT", np.float32), "tensor(int64)": ("INT64", np.int64)}


def fake_tensorrt(cuda: FakeCuda) -> SimpleNamespace:
    """The part of the modules tensorrt and tensorrt_rtx that is used."""

    class ILogger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)

    class Context:
        def __init__(self, session: Any, how: Any) -> None:
            self._session, self._shapes, self._addresses = session, {}, {}
            self._memory = self._memory_size = self._runs = 0
            # Other kernels as soon as they have been compiled, unless they are compiled at once.
            self._changes = getattr(how, "dynamic_shapes_kernel_specialization_strategy", "eager") != "eager"

        def set_device_memory(self, memory: int, size: int) -> None:
            self._memory, self._memory_size = memory, size

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            self._shapes[name] = shape
            return True

        def set_tensor_address(self, name: str, address: int) -> bool:
            self._addresses[name] = address
            return True

        def execute_async_v3(self, stream: int) -> bool:
            assert cuda.in_a_thread_that_chose()
            assert set(self._addresses) == {
                node.name for node in (*self._session.get_inputs(), *self._session.get_outputs())
            }
            if stream not in cuda.captures:
                cuda.frames = max(cuda.frames, frames_of_ours())
            cuda.put(
                stream, Work(self._execute, [(address, 1) for address in (*self._addresses.values(), self._memory)])
            )
            return True

        def _execute(self) -> None:
            assert len(cuda.device[self._memory]) == self._memory_size
            assert self._memory not in cuda.in_use, "two runs at once in one memory"
            cuda.in_use.add(self._memory)
            feeds = {}
            for node in self._session.get_inputs():
                feeds[node.name] = view(
                    self._addresses[node.name], self._shapes[node.name], _DTYPES[node.type][1]
                ).copy()
            for node, value in zip(self._session.get_outputs(), self._session.run(None, feeds), strict=True):
                result = value * np.float32(0.999) if self._changes and self._runs else value
                view(self._addresses[node.name], value.shape, value.dtype)[...] = result
            self._runs += 1
            cuda.in_use.remove(self._memory)

    class Engine:
        def __init__(self, session: Any) -> None:
            self._session = session
            self._nodes = {node.name: node for node in (*session.get_inputs(), *session.get_outputs())}
            self.num_io_tensors, self.device_memory_size_v2 = len(self._nodes), 256

        def get_tensor_name(self, index: int) -> str:
            return list(self._nodes)[index]

        def get_tensor_dtype(self, name: str) -> Any:
            return SimpleNamespace(name=_DTYPES[self._nodes[name].type][0])

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(side if isinstance(side, int) else -1 for side in self._nodes[name].shape)

        def get_tensor_mode(self, name: str) -> str:
            return "in" if name in {node.name for node in self._session.get_inputs()} else "out"

        def create_runtime_config(self) -> Any:
            return SimpleNamespace(
                set_execution_context_allocation_strategy=lambda _: None,
                dynamic_shapes_kernel_specialization_strategy="lazy",
                cuda_graph_strategy="disabled",
            )

        def create_execution_context(self, how: Any) -> Context:
            return Context(self._session, how)

    class Runtime:
        def __init__(self, log: Any) -> None:
            self._log = log

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            try:
                return Engine(onnxruntime.InferenceSession(plan, options, providers=["CPUExecutionProvider"]))
            except Exception:  # noqa: BLE001 - as little choosy as TensorRT
                self._log.log(ILogger.Severity.WARNING, "nothing")
                self._log.log(ILogger.Severity.ERROR, " magic tag does not match ")
                return None

    return SimpleNamespace(
        __version__=VERSION,
        ILogger=ILogger,
        Runtime=Runtime,
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
        CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph"),
        ComputeCapability=SimpleNamespace(__members__={"NONE": 0, "CURRENT": 1, "SM80": 80, "SM89": 89, "SM120": 120}),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
    )


def view(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).view(dtype).reshape(shape)


def add_engine(bundle: Path, *, built_here: bool = True, **changes: Any) -> EngineManifest:
    """Puts an engine into a bundle's folder, whose plans are the bundle's ONNX files."""
    source = parse_manifest((bundle / MANIFEST_NAME).read_bytes(), "the bundle")
    fields: dict[str, Any] = {
        "schema_version": ENGINE_SCHEMA_VERSION,
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
    for role in source.model.roles:
        precision = "fp32" if role == "text_encoder" else fields["precision"]
        graph = source.graph(role, precision)
        assert graph is not None
        (folder / f"{role}.plan").write_bytes((bundle / graph.file.path).read_bytes())
        file = FileEntry.of(folder, f"{role}.plan")
        plans.append(PlanEntry(role=role, precision=precision, file=file, onnx_sha256=graph.file.sha256))
    manifest = EngineManifest(**(fields | {"plans": tuple(plans)}))
    (folder / ENGINE_MANIFEST_NAME).write_bytes(manifest.to_json())
    if built_here:
        record_built_here(manifest.to_json())
    return manifest
