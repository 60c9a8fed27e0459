"""TensorRT's engines for one batch size: contexts, the buffers that lead from one to the next, and CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from dmgan_runtime.backends.base import Array
from dmgan_runtime.backends.tensorrt.cuda import Cuda, DeviceTensor
from dmgan_runtime.errors import EngineError
from dmgan_runtime.graphs import Interface, run_graphs
from dmgan_runtime.manifest import Role

Allocate: TypeAlias = Callable[[tuple[int, ...], Any], DeviceTensor]
"""Makes a tensor of a shape and a dtype on the GPU."""


class LoadedPlan(NamedTuple):
    """A plan as TensorRT has loaded it.

    Attributes:
        new_context: Makes an execution context that brings no memory of its own.
        memory: How many bytes such a context needs while it runs.
        interface: What goes in and out.
        capture: Whether to replay it as a CUDA graph.
    """

    new_context: Callable[[], Any]
    memory: int
    interface: Interface
    capture: bool


class CapturedEngine:
    """An engine for one batch size, with a context of its own: a CUDA graph needs one whose shapes never change."""

    def __init__(
        self,
        cuda: Cuda,
        plan: LoadedPlan,
        inputs: Mapping[str, DeviceTensor],
        outputs: Mapping[str, DeviceTensor],
        memory: DeviceTensor,
    ) -> None:
        self.outputs = outputs
        self._cuda = cuda
        self._capture = plan.capture
        self._has_run = False
        self._graph: Any = None
        self._context = plan.new_context()
        if self._context is None:
            raise EngineError("TensorRT cannot create an execution context; see nvidia-smi for the GPU's free memory")
        self._context.set_device_memory(memory.address, memory.size)
        for name, tensor in inputs.items():
            _check(self._context.set_input_shape(name, tensor.shape), f"refuses the shape {tensor.shape} for {name}")
        for name, tensor in (*inputs.items(), *outputs.items()):
            _check(self._context.set_tensor_address(name, tensor.address), f"refuses an address for {name}")

    def execute(self, stream: Any) -> None:
        """Puts a run on a stream."""
        # Not in the first run, in which TensorRT sets the context up; and a size that comes once is not worth it.
        if self._has_run and self._capture and self._graph is None:
            self._graph = self._cuda.capture(stream, lambda: self._enqueue(stream))
            self._capture = self._graph is not None
        if self._graph is not None:
            self._cuda.call("cudaGraphLaunch", self._graph, stream)
        else:
            self._enqueue(stream)
        self._has_run = True

    def free(self) -> None:
        """Frees the CUDA graph and the context; the tensors belong to others."""
        if self._graph is not None:
            self._cuda.release("cudaGraphExecDestroy", self._graph)
        self._graph = self._context = None

    def _enqueue(self, stream: Any) -> None:
        _check(self._context.execute_async_v3(int(stream)), "fails to run")


class ChainedEngines:
    """Engines for batches of one size; each reads what those before it write.

    Attributes:
        inputs: The tensors that are copied to the GPU, by name.
        engines: Those to run, in order.
    """

    def __init__(self, cuda: Cuda, allocate: Allocate, memory: DeviceTensor) -> None:
        """Args:
        cuda: The GPU.
        allocate: Makes tensors; they belong to this object.
        memory: What all contexts use while they run, one after the other.
        """
        self.inputs: dict[str, DeviceTensor] = {}
        self.engines: dict[Role, CapturedEngine] = {}
        self._cuda = cuda
        self._allocate = allocate
        self._memory = memory
        self._tensors: list[DeviceTensor] = []

    def create(self, plans: Mapping[Role, LoadedPlan], inputs: Mapping[str, Array]) -> None:
        """Makes the engines of some plans. If it fails, `free` frees what it has made.

        Args:
            plans: In the order in which they run.
            inputs: Arrays such as those that will be copied to the GPU.
        """

        def add(role: Role, given: Mapping[str, DeviceTensor], names: Sequence[str]) -> dict[str, DeviceTensor]:
            plan = plans[role]
            shapes = {entry.name: (size, *entry.shape[1:]) for entry in plan.interface.outputs}
            # All of them: TensorRT wants an address for every output.
            outputs = {name: self._new_tensor(shape, np.float32) for name, shape in shapes.items()}
            self.engines[role] = CapturedEngine(self._cuda, plan, given, outputs, self._memory)
            return outputs

        for name, array in inputs.items():
            self.inputs[name] = self._new_tensor(array.shape, array.dtype)
        size = self.inputs["lengths"].shape[0]
        for _ in run_graphs(add, {role: plan.interface for role, plan in plans.items()}, self.inputs):
            pass

    def free(self) -> None:
        """Frees all. The GPU must not be using it."""
        for engine in self.engines.values():
            engine.free()
        for tensor in self._tensors:
            tensor.free()

    def _new_tensor(self, shape: tuple[Any, ...], dtype: Any) -> DeviceTensor:
        tensor = self._allocate(shape, dtype)
        self._tensors.append(tensor)
        return tensor


def _check(succeeded: bool, what: str) -> None:
    if not succeeded:
        raise EngineError(f"TensorRT {what}")
