"""ONNX Runtime on an NVIDIA GPU: what goes from stage to stage stays there."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dmgan_runtime.backends.base import Active, Arithmetic, Tensor, choose_precision, graphs_of
from dmgan_runtime.backends.driver import find_gpu
from dmgan_runtime.backends.onnxruntime import import_engine, installed_rivals, load_session, session_options
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BackendError, EngineError
from dmgan_runtime.manifest import GENERATOR_ROLES, GraphEntry, Role, TensorEntry

if TYPE_CHECKING:
    import onnxruntime as ort

_PRECISIONS: tuple[Arithmetic, ...] = ("fp16", "fp32")
_PROVIDER = "CUDAExecutionProvider"
_DEVICE = "cuda"
_CAPTURED_BATCH_SIZES = 8
_NOT_CAPTURED = "-1"
_DTYPES = {"float32": np.float32, "int64": np.int64}

# One for the process: while ONNX Runtime captures a CUDA graph, CUDA forbids every other thread to allocate memory or
# to copy, and it does not allow two threads in one session that has graphs. A GPU computes one thing at a time anyway.
_GPU = threading.Lock()


def _new_lock() -> None:
    """In a forked process: the thread that held the lock is not there to give it back."""
    global _GPU
    _GPU = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


class OnnxRuntimeCudaBackend:
    """A bundle's graphs as ONNX Runtime sessions on a GPU. See `Backend` for the methods."""

    def __init__(self, bundle: Bundle, *, index: int, precision: str, threads: int, named: bool = False) -> None:
        """Loads every graph of the chosen precision. See `BackendClass`."""
        engine = import_engine("gpu")
        chosen = choose_precision(bundle, precision, _PRECISIONS, "onnxruntime on a GPU")
        options = cuda_session_options(engine, threads)
        self._engine, self._index = engine, index
        with _GPU:
            missing = _preload(engine)
            try:
                self._graphs = {
                    role: self._load(bundle, graph, options) for role, graph in graphs_of(bundle, chosen).items()
                }
            except EngineError as error:
                remedy = 'if CUDA or cuDNN is missing: pip install "dmgan[gpu]"'
                raise EngineError("; ".join([str(error), remedy, *missing])) from error
        self.active = Active("onnxruntime", engine.__version__, f"cuda:{index}", chosen, threads)

    @classmethod
    def probe(cls, index: int) -> str:
        """See `BackendClass.probe`."""
        engine = import_engine("gpu")
        if _PROVIDER not in engine.get_available_providers():
            raise BackendError(f"onnxruntime {engine.__version__} here is built without CUDA; {_remedy()}")
        find_gpu(index)
        return str(engine.__version__)

    def run(self, role: Role, feeds: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """See `Backend.run`; a tensor is an `OrtValue` on the GPU."""
        try:
            with _GPU:
                return self._graphs[role].run(feeds, outputs)
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            raise EngineError(
                f"onnxruntime failed in {role} on cuda:{self._index} ({error}); try fewer images at once"
            ) from error

    def to_host(self, tensor: Tensor) -> npt.NDArray[np.float32]:
        """See `Backend.to_host`."""
        with _GPU:
            array: npt.NDArray[np.float32] = tensor.numpy()
        return array

    def close(self) -> None:
        """Nothing to do: a session is freed with its last reference, so a run in another thread may finish."""

    def _load(self, bundle: Bundle, graph: GraphEntry, options: ort.SessionOptions) -> _Graph:
        # An LSTM's lengths are read by the CPU, so a captured graph of the text encoder would keep its first ones.
        capture = graph.role in GENERATOR_ROLES
        provider_options = cuda_options(self._index, capture)
        session = load_session(self._engine, options, bundle, graph, _PROVIDER, provider_options)
        return _Graph(self._engine, session, graph, self._index, capture)


def cuda_session_options(engine: ModuleType, threads: int) -> ort.SessionOptions:
    """How every session runs: wholly on the GPU."""
    options = session_options(engine, threads)
    # Otherwise ONNX Runtime logs a line and takes the CPU, for one operator or, without CUDA's libraries, for all.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def cuda_options(index: int, capture: bool) -> dict[str, str]:
    """The options of ONNX Runtime's CUDA provider.

    Args:
        index: N of `cuda:N`.
        capture: Whether to replay CUDA graphs.
    """
    return {
        "device_id": str(index),
        "enable_cuda_graph": str(int(capture)),
        "prefer_nhwc": "1",
        # fp32 is for those who want what PyTorch computed; TF32 keeps 10 bits of a product. fp16 is for speed.
        "use_tf32": "0",
        # An exhaustive search takes what was fastest in its trial: another process may get another image.
        "cudnn_conv_algo_search": "HEURISTIC",
    }


class _Slot(NamedTuple):
    """The fixed buffers of one batch size, which a captured CUDA graph reads and writes."""

    inputs: dict[str, ort.OrtValue]
    outputs: dict[str, ort.OrtValue]
    binding: ort.IOBinding
    options: ort.RunOptions


class _Graph:
    """A session whose inputs and outputs stay on the GPU. Not for two threads at once."""

    def __init__(
        self, engine: ModuleType, session: ort.InferenceSession, graph: GraphEntry, index: int, capture: bool
    ) -> None:
        self._engine = engine
        self._session = session
        self._graph = graph
        self._index = index
        self._capture = capture
        self._slots: dict[int, _Slot] = {}

    def run(self, feeds: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        rows = _rows(next(iter(feeds.values())))
        if self._capture and rows not in self._slots and len(self._slots) < _CAPTURED_BATCH_SIZES:
            self._slots[rows] = self._new_slot(rows)
        if rows in self._slots:
            return self._replay(self._slots[rows], feeds, outputs)
        return self._run_once(feeds, outputs)

    def _replay(self, slot: _Slot, feeds: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        for name, buffer in slot.inputs.items():
            tensor = feeds[name]
            buffer.update_inplace(np.ascontiguousarray(tensor) if isinstance(tensor, np.ndarray) else tensor)
        self._session.run_with_iobinding(slot.binding, slot.options)
        slot.binding.synchronize_outputs()
        # Copies, because the next run of this batch size, maybe another thread's, writes into the same buffers.
        results = {}
        for name in outputs:
            copy = self._buffer(next(entry for entry in self._graph.outputs if entry.name == name), _rows(slot))
            copy.update_inplace(slot.outputs[name])
            results[name] = copy
        return results

    def _run_once(self, feeds: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        binding = self._session.io_binding()
        for entry in self._graph.inputs:
            tensor = feeds[entry.name]
            if isinstance(tensor, np.ndarray):
                binding.bind_cpu_input(entry.name, np.ascontiguousarray(tensor))
            else:
                binding.bind_ortvalue_input(entry.name, tensor)
        for name in outputs:
            binding.bind_output(name, _DEVICE, self._index)
        self._session.run_with_iobinding(binding, self._run_options(_NOT_CAPTURED))
        binding.synchronize_outputs()
        return dict(zip(outputs, binding.get_outputs(), strict=True))

    def _new_slot(self, rows: int) -> _Slot:
        inputs = {entry.name: self._buffer(entry, rows) for entry in self._graph.inputs}
        outputs = {entry.name: self._buffer(entry, rows) for entry in self._graph.outputs}
        binding = self._session.io_binding()
        for name, buffer in inputs.items():
            binding.bind_ortvalue_input(name, buffer)
        for name, buffer in outputs.items():
            binding.bind_ortvalue_output(name, buffer)
        return _Slot(inputs, outputs, binding, self._run_options(str(rows)))

    def _run_options(self, graph_id: str) -> ort.RunOptions:
        options = self._engine.RunOptions()
        options.add_run_config_entry("gpu_graph_id", graph_id)
        return options

    def _buffer(self, entry: TensorEntry, rows: int) -> ort.OrtValue:
        shape = [rows if side == "batch" else side for side in entry.shape]
        return self._engine.OrtValue.ortvalue_from_shape_and_type(shape, _DTYPES[entry.dtype], _DEVICE, self._index)


def _preload(engine: ModuleType) -> list[str]:
    """Loads the CUDA libraries that pip installed; returns what it printed of those that it did not find."""
    # Nothing but what was asked for belongs on a command's standard output.
    with redirect_stdout(StringIO()) as printed:
        engine.preload_dlls()
    return printed.getvalue().splitlines()


def _rows(tensor: Any) -> int:
    if isinstance(tensor, _Slot):
        tensor = next(iter(tensor.inputs.values()))
    shape = tensor.shape if isinstance(tensor, np.ndarray) else tensor.shape()
    return int(shape[0])


def _remedy() -> str:
    if len(installed_rivals()) > 1:
        return (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other:"
            ' pip uninstall onnxruntime onnxruntime-gpu, then pip install "dmgan[gpu]"'
        )
    return 'pip uninstall onnxruntime, then pip install "dmgan[gpu]"'
