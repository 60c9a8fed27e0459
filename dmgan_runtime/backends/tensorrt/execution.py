"""What a batch runs in on TensorRT: a stream, memory for copies, engines; and how batches share a GPU."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from dmgan_runtime.backends.base import Array
from dmgan_runtime.backends.tensorrt.cuda import Cuda, DeviceTensor, PinnedBuffer
from dmgan_runtime.backends.tensorrt.engines import ChainedEngines, LoadedPlan
from dmgan_runtime.errors import EngineError
from dmgan_runtime.manifest import Role

# Two overlap the copies of one batch with the work of another; the GPU gains nothing from more.
_AT_ONCE = 2
# Batch sizes, with and without the text encoder.
_KEPT_KINDS = 8


class ExecutionSlot:
    """What one batch at a time runs in: a stream, memory of the host for copies, and engines for some batch sizes.

    Attributes:
        is_idle: Whether the GPU has done all that it was given here.
    """

    def __init__(self, cuda: Cuda, plans: Mapping[Role, LoadedPlan], make_room: Callable[[], None]) -> None:
        """Args:
        cuda: The GPU.
        plans: One for each graph, in the order in which they run.
        make_room: Frees what other slots keep and do not use.

        Raises:
            EngineError: if the GPU has no memory for it.
        """
        self.is_idle = True
        self._cuda = cuda
        self._plans = plans
        self._make_room = make_room
        self._kept: OrderedDict[tuple[int, bool], ChainedEngines] = OrderedDict()
        self._current: ChainedEngines | None = None
        # For arrays on their way to the GPU and back: each is reused only after the stream was waited for.
        self._uploads, self._downloads = PinnedBuffer(cuda), PinnedBuffer(cuda)
        self._stream = cuda.new_stream()
        try:
            self._memory = self._allocate((max(1, *(plan.memory for plan in plans.values())),), np.uint8)
        except EngineError:
            cuda.release("cudaStreamDestroy", self._stream)
            raise

    def load(self, inputs: Mapping[str, Array]) -> None:
        """Begins a batch: puts the copies of its arrays to the GPU on the stream.

        Args:
            inputs: By the names that the graphs have for them; the first axis is the batch. Tokens, or text features,
                with which the text encoder does not run.

        Raises:
            EngineError: if the GPU fails.
        """
        self.is_idle = False
        self._current = None
        self._current = self._engines_for(inputs)
        targets = self._current.chain.inputs
        names = targets.keys() & inputs.keys()  # a model of one stage reads no words
        address = self._uploads.reserve(sum(targets[name].size for name in names))
        offset = 0
        for name in names:
            target = targets[name]
            self._uploads.view(offset, target.shape, target.dtype)[...] = inputs[name]
            self._cuda.copy(target.address, address + offset, target.size, "HostToDevice", self._stream)
            offset += target.size

    def run(self, role: Role, wanted: Collection[str]) -> dict[str, Array]:
        """Runs one engine on the batch, after those before it.

        Args:
            role: The graph.
            wanted: The outputs to return, where the graph has them. If it has none, the GPU is not waited for.

        Raises:
            EngineError: if the GPU fails.
        """
        assert self._current is not None  # since `load`
        self.is_idle = False
        engine = self._current.chain[role]
        engine.execute(self._stream)
        fetched = {name: tensor for name, tensor in engine.outputs.items() if name in wanted}
        if not fetched:
            return {}
        address = self._downloads.reserve(sum(tensor.size for tensor in fetched.values()))
        arrays: dict[str, Array] = {}
        offset = 0
        for name, tensor in fetched.items():
            self._cuda.copy(address + offset, tensor.address, tensor.size, "DeviceToHost", self._stream)
            arrays[name] = self._downloads.view(offset, tensor.shape, tensor.dtype)
            offset += tensor.size
        self._cuda.call("cudaStreamSynchronize", self._stream)
        self.is_idle = True
        return {name: array.copy() for name, array in arrays.items()}

    def free(self) -> None:
        """Frees all. No thread may be using it."""
        # After a failure the GPU may still be at work in memory that others get next.
        self._cuda.wait_for(self._stream)
        self._forget(keep=0)
        self._memory.free()
        self._uploads.free()
        self._downloads.free()
        self._cuda.release("cudaStreamDestroy", self._stream)

    def _engines_for(self, inputs: Mapping[str, Array]) -> ChainedEngines:
        size, encodes = key = len(inputs["lengths"]), "tokens" in inputs
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._forget(keep=_KEPT_KINDS - 1)
            plans = dict(list(self._plans.items())[not encodes :])
            self._kept[key] = ChainedEngines(self._cuda, plans, size, self._allocate, self._memory)
        return self._kept[key]

    def _forget(self, *, keep: int) -> None:
        """Frees the engines of all kinds of batches but those used last."""
        while len(self._kept) > keep:
            self._kept.popitem(last=False)[1].free()

    def _allocate(self, shape: tuple[int, ...], dtype: Any) -> DeviceTensor:
        try:
            return DeviceTensor(self._cuda, shape, dtype)
        except EngineError:
            # The current kind comes last; the others were only kept for later.
            self._forget(keep=0 if self._current is None else 1)
            self._make_room()
            return DeviceTensor(self._cuda, shape, dtype)


class SlotPool:
    """Slots for any number of batches at a time.

    Attributes:
        turns: To be held while a slot computes, and not between the stages of a batch: a stream whose reader takes its
            time keeps its slot, but nobody waits for it.
    """

    def __init__(self, cuda: Cuda, plans: Mapping[Role, LoadedPlan]) -> None:
        """Args:
        cuda: The GPU.
        plans: One for each graph, in the order in which they run.
        """
        self.turns = threading.Semaphore(_AT_ONCE)
        self._cuda = cuda
        self._plans = plans
        # Without a lock, as appending to and popping from a list are atomic: the garbage collector may end a batch that
        # was abandoned half-way in any thread, also in one that holds the lock.
        self._idle: list[ExecutionSlot] = []
        self._closed = False

    def take(self) -> ExecutionSlot:
        """A slot for a whole batch; call it with a turn.

        Raises:
            EngineError: if the GPU has no memory for another.
        """
        try:
            return self._idle.pop()
        except IndexError:
            return ExecutionSlot(self._cuda, self._plans, lambda: self._free_idle(keep=0))

    def give_back(self, slot: ExecutionSlot) -> None:
        """Takes a slot back, in whatever thread; one that failed is freed, as its stream may be in any state."""
        if slot.is_idle:
            self._idle.append(slot)
        else:
            slot.free()
        self._free_idle(keep=0 if self._closed else _AT_ONCE)

    def close(self) -> None:
        """Frees the idle slots; the others are freed as they come back."""
        self._closed = True
        self._free_idle(keep=0)

    def _free_idle(self, *, keep: int) -> None:
        while len(self._idle) > keep:
            try:
                slot = self._idle.pop(0)
            except IndexError:  # another thread was faster
                return
            slot.free()
