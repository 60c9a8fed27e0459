"""What one thread at a time runs TensorRT's engines with: a stream, contexts, buffers and CUDA graphs."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmgan_runtime.backends.base import Tensor
from dmgan_runtime.backends.cuda import Cuda, DeviceTensor, PinnedBuffer
from dmgan_runtime.errors import EngineError
from dmgan_runtime.interface import Interface
from dmgan_runtime.manifest import Role, TensorEntry

_LOG = logging.getLogger(__name__)
_MAX_PROGRAMS = 16


@dataclass(frozen=True)
class Plan:
    """A loaded engine of one graph.

    Attributes:
        new_context: Makes an execution context that brings no memory of its own.
        memory: How many bytes such a context needs.
        interface: What goes in and out.
        capture: Whether to replay it as a CUDA graph.
    """

    new_context: Callable[[], Any]
    memory: int
    interface: Interface
    capture: bool


class _Program:
    """A plan at one batch size: TensorRT wants a context of its own for each CUDA graph that is captured."""

    def __init__(self, cuda: Cuda, plan: Plan, rows: int, memory: DeviceTensor) -> None:
        self._cuda = cuda
        self.inputs = {entry.name: _allocate(cuda, entry, rows) for entry in plan.interface.inputs}
        self.outputs = {entry.name: _allocate(cuda, entry, rows) for entry in plan.interface.outputs}
        self.context = plan.new_context()
        if self.context is None:
            raise EngineError("TensorRT cannot create an execution context; see nvidia-smi for the GPU's free memory")
        self.context.set_device_memory(memory.address, memory.size)
        for name, tensor in self.inputs.items():
            _check(self.context.set_input_shape(name, tensor.shape), f"refuses the shape {tensor.shape} for {name}")
        for name, tensor in (self.inputs | self.outputs).items():
            _check(self.context.set_tensor_address(name, tensor.address), f"refuses an address for {name}")
        self.capture = plan.capture
        self.graph: Any = None

    def execute(self, stream: Any) -> None:
        """Puts one run on a stream; the second run is recorded as a CUDA graph, and every later one replays it."""
        if self.graph is not None:
            self._cuda.call("cudaGraphLaunch", self.graph, stream)
            return
        # TensorRT sets itself up in a context's first run, so that one cannot be recorded.
        self._enqueue(stream)
        if self.capture:
            try:
                self.graph = self._cuda.capture(stream, lambda: self._enqueue(stream))
            except EngineError as error:
                _LOG.warning("TensorRT runs without CUDA graphs: %s", str(error))
                self.capture = False

    def close(self) -> None:
        if self.graph is not None:
            self._cuda.call("cudaGraphExecDestroy", self.graph)
        self.graph = self.context = None
        self.inputs.clear()
        self.outputs.clear()

    def _enqueue(self, stream: Any) -> None:
        _check(self.context.execute_async_v3(int(stream)), "fails to run")


class Lane:
    """Runs every plan, for one thread at a time."""

    def __init__(self, cuda: Cuda, plans: Mapping[Role, Plan]) -> None:
        """Args:
        cuda: The GPU.
        plans: One for each graph.
        """
        self._cuda = cuda
        self._plans = plans
        # One run at a time, so that all contexts can share what they need while they run.
        self._memory = DeviceTensor(cuda, (max(1, *(plan.memory for plan in plans.values())),), np.uint8)
        self._staging = PinnedBuffer(cuda)
        self._programs: OrderedDict[tuple[Role, int], _Program] = OrderedDict()
        self._stream = cuda.new_stream()

    def run(self, role: Role, feeds: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """See `Backend.run`; tensors are `DeviceTensor`s.

        Raises:
            EngineError: if an input has another shape or dtype than the plan takes, or the GPU fails.
        """
        rows = feeds[self._plans[role].interface.inputs[0].name].shape[0]
        program = self._program(role, rows)
        self._feed(program, feeds)
        program.execute(self._stream)
        results = {}
        for name in outputs:
            # Copies, because the next run of this batch size, maybe another thread's, writes into the same buffers.
            own = program.outputs[name]
            results[name] = DeviceTensor(self._cuda, own.shape, own.dtype)
            self._cuda.copy(results[name].address, own.address, own.size, "DeviceToDevice", self._stream)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        return results

    def fetch(self, tensor: DeviceTensor) -> npt.NDArray[Any]:
        """A tensor as an array."""
        address = self._staging.reserve(tensor.size)
        self._cuda.copy(address, tensor.address, tensor.size, "DeviceToHost", self._stream)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        return self._staging.view(0, tensor.shape, tensor.dtype).copy()

    def close(self) -> None:
        """Frees all; no other thread may be running it."""
        # After a failure the GPU may still be at work in these buffers, which others get next.
        with suppress(EngineError):
            self._cuda.call("cudaStreamSynchronize", self._stream)
        for program in self._programs.values():
            program.close()
        self._programs.clear()
        self._staging.free()
        self._cuda.call("cudaStreamDestroy", self._stream)

    def _program(self, role: Role, rows: int) -> _Program:
        if (role, rows) not in self._programs:
            program = _Program(self._cuda, self._plans[role], rows, self._memory)
            self._programs[role, rows] = program
        self._programs.move_to_end((role, rows))
        if len(self._programs) > _MAX_PROGRAMS:
            self._programs.popitem(last=False)[1].close()
        return self._programs[role, rows]

    def _feed(self, program: _Program, feeds: Mapping[str, Tensor]) -> None:
        for name, target in program.inputs.items():
            if (feeds[name].shape, feeds[name].dtype) != (target.shape, target.dtype):
                raise EngineError(f"{name} is {feeds[name].dtype}{feeds[name].shape}, not {target.dtype}{target.shape}")
        arrays = {name: tensor for name, tensor in feeds.items() if isinstance(tensor, np.ndarray)}
        staging = self._staging.reserve(sum(array.nbytes for array in arrays.values()))
        offset = 0
        for name, target in program.inputs.items():
            if name in arrays:
                self._staging.view(offset, target.shape, target.dtype)[...] = arrays[name]
                self._cuda.copy(target.address, staging + offset, target.size, "HostToDevice", self._stream)
                offset += target.size
            else:
                self._cuda.copy(target.address, feeds[name].address, target.size, "DeviceToDevice", self._stream)


class LanePool:
    """Lanes for any number of threads; one waits while all are taken."""

    def __init__(self, cuda: Cuda, new_lane: Callable[[], Lane], limit: int) -> None:
        """Args:
        cuda: The GPU.
        new_lane: Makes one; called when it is first needed.
        limit: How many there are at most.
        """
        self._cuda = cuda
        self._new_lane = new_lane
        self._places = threading.Semaphore(limit)
        self._idle: list[Lane] = []
        self._closed = False

    @contextmanager
    def take(self) -> Iterator[Lane]:
        """A lane for this thread. After a failure it is not used again: its stream may be in any state."""
        with self._places:
            self._cuda.enter_thread()
            try:
                lane = self._idle.pop()
            except IndexError:
                lane = self._new_lane()
            try:
                yield lane
            except BaseException:
                with suppress(EngineError):
                    lane.close()
                raise
            self._idle.append(lane)
            if self._closed:
                self._free_idle()

    def close(self) -> None:
        """Frees the idle lanes; the others are freed as they come back."""
        self._closed = True
        self._cuda.enter_thread()
        self._free_idle()

    def _free_idle(self) -> None:
        while self._idle:
            try:
                lane = self._idle.pop()
            except IndexError:
                return
            lane.close()


def _allocate(cuda: Cuda, entry: TensorEntry, rows: int) -> DeviceTensor:
    return DeviceTensor(cuda, tuple(rows if side == "batch" else side for side in entry.shape), entry.dtype)


def _check(succeeded: bool, what: str) -> None:
    if not succeeded:
        raise EngineError(f"TensorRT {what}")
