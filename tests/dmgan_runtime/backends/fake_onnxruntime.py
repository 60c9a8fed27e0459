"""ONNX Runtime with a CUDA provider that is not there: its own CPU provider computes, and memory is the host's.

It fails, or returns other numbers, where the real one would:

- What a session is asked to run, it computes when its outputs are waited for.
- The outputs that it allocates itself, and was not given, are overwritten by its next run.
- A captured CUDA graph reads and writes the buffers that it was captured with, whatever is bound later, and keeps what
  a text encoder read from the CPU.
- Sessions and buffers are for one thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import numpy as np
import onnxruntime

from tests.dmgan_runtime.backends.fake_cuda import GARBAGE, frames_of_ours

NOT_CAPTURED = -1


class RunOptions:
    def __init__(self) -> None:
        self._entries: dict[str, str] = {}

    def add_run_config_entry(self, name: str, value: str) -> None:
        self._entries[name] = value


class OrtValue:
    """A buffer on the GPU."""

    def __init__(self, owner: FakeOnnxRuntime, shape: list[int], dtype: Any) -> None:
        self._owner = owner
        self._array = np.frombuffer(bytes([GARBAGE]) * int(np.prod(shape) * np.dtype(dtype).itemsize), dtype)
        self._array = self._array.reshape(shape).copy()
        if len(owner.buffers) >= owner.room:
            raise RuntimeError("Failed to allocate memory")
        owner.buffers.add(self)
        owner.made += 1
        owner.most_buffers = max(owner.most_buffers, len(owner.buffers))

    def update_inplace(self, array: Any) -> None:
        self._owner.check_thread()
        assert (array.shape, array.dtype, array.flags.c_contiguous) == (self._array.shape, self._array.dtype, True)
        if self._owner.fails_to_copy:
            raise RuntimeError("CUDA failure 700")
        self._owner.copies["to the GPU"] += 1
        self._array[...] = array

    def numpy(self) -> Any:
        self._owner.check_thread()
        self._owner.copies["to the host"] += 1
        return self._array.copy()


class IOBinding:
    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self._inputs: dict[str, OrtValue] = {}
        self._outputs: dict[str, OrtValue] = {}
        self._waiting: list[Any] = []

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        self._inputs[name] = ortvalue

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        self._outputs[name] = ortvalue

    def bind_output(self, name: str, device_type: str, device_id: int) -> None:
        node = next(node for node in self._session.get_outputs() if node.name == name)
        size = len(next(iter(self._inputs.values())).array)
        self._outputs[name] = OrtValue(self._session._owner, [size, *node.shape[1:]], np.float32)
        self._session._arena.append(self._outputs[name])

    def get_outputs(self) -> list[OrtValue]:
        return list(self._outputs.values())

    def synchronize_outputs(self) -> None:
        self._session._owner.check_thread()
        while self._waiting:
            self._waiting.pop(0)()


class InferenceSession:
    def __init__(self, owner: FakeOnnxRuntime, content: bytes, options: Any, providers: Any) -> None:
        ((name, self.options),) = providers
        assert name == "CUDAExecutionProvider"
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        self._owner = owner
        self._arena: list[OrtValue] = []
        self._graphs: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        plain = onnxruntime.SessionOptions()
        plain.intra_op_num_threads = 1
        self._real = onnxruntime.InferenceSession(content, plain, providers=["CPUExecutionProvider"])
        self._reads_lengths_on_the_cpu = "tokens" in {node.name for node in self._real.get_inputs()}
        owner.check_thread()
        owner.sessions.add(self)

    def get_inputs(self) -> Any:
        return self._real.get_inputs()

    def get_outputs(self) -> Any:
        return self._real.get_outputs()

    def io_binding(self) -> IOBinding:
        return IOBinding(self)

    def run_with_iobinding(self, iobinding: IOBinding, run_options: RunOptions) -> None:
        self._owner.check_thread()
        self._owner.frames = max(self._owner.frames, frames_of_ours())
        graph_id = int(run_options._entries.get("gpu_graph_id", "0"))
        inputs = {name: value._array for name, value in iobinding._inputs.items()}
        outputs = {name: value._array for name, value in iobinding._outputs.items()}
        if self.options["enable_cuda_graph"] == "1" and graph_id != NOT_CAPTURED:
            if self._owner.fails_to_capture:
                raise RuntimeError("cannot capture")
            if graph_id not in self._graphs and self._reads_lengths_on_the_cpu:
                inputs["lengths"] = inputs["lengths"].copy()
            inputs, outputs = self._graphs.setdefault(graph_id, (inputs, outputs))
        for buffer in self._arena:
            if buffer not in iobinding._outputs.values():
                buffer._array.view(np.uint8)[...] = GARBAGE
        iobinding._waiting.append(lambda: self._compute(inputs, outputs))

    def _compute(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        if self._owner.fails_at in outputs:
            raise RuntimeError("CUDA failure 2: out of memory")
        for name, value in zip(outputs, self._real.run(list(outputs), dict(inputs)), strict=True):
            outputs[name][...] = value


class FakeOnnxRuntime:
    """The part of the module onnxruntime that is used."""

    __version__ = "1.31.1"
    SessionOptions = onnxruntime.SessionOptions
    RunOptions = RunOptions

    def __init__(self) -> None:
        self.buffers: WeakSet[OrtValue] = WeakSet()
        self.sessions: WeakSet[InferenceSession] = WeakSet()
        self.thread: int | None = None
        self.copies: Counter[str] = Counter()
        self.frames = self.made = self.most_buffers = 0
        self.room = 2**30
        self.fails_at = ""
        self.fails_to_capture = self.fails_to_copy = False
        self.OrtValue = SimpleNamespace(ortvalue_from_shape_and_type=self._new_value)

    @property
    def captured(self) -> int:
        """How many CUDA graphs the sessions hold."""
        return sum(len(session._graphs) for session in self.sessions)

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        pass

    def InferenceSession(  # noqa: N802
        self, content: bytes, options: Any, providers: Any, enable_fallback: int
    ) -> InferenceSession:
        assert not enable_fallback
        return InferenceSession(self, content, options, providers)

    def check_thread(self) -> None:
        """The first thread that comes is the only one."""
        self.thread = self.thread or threading.get_ident()
        assert self.thread == threading.get_ident(), "two threads"

    def _new_value(self, shape: list[int], element_type: Any, device_type: str, device_id: int) -> OrtValue:
        self.check_thread()
        assert (device_type, device_id) == ("cuda", 0)
        return OrtValue(self, shape, element_type)
