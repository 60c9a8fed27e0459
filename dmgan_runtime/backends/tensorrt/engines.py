"""TensorRT's engines for one batch size: contexts, CUDA graphs, and the tensors that are theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dmgan_runtime.backends.graph_chain import Allocate, GraphChain
from dmgan_runtime.backends.tensorrt.cuda import Cuda, DeviceTensor
from dmgan_runtime.errors import EngineError
from dmgan_runtime.graphs import Interface
from dmgan_runtime.manifest import Role


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
    """Engines for batches of one size, and all that is to be freed with them.

    Attributes:
        chain: The engines by role, each made when it is first asked for.
    """

    def __init__(
        self,
        cuda: Cuda,
        plans: Mapping[Role, LoadedPlan],
        size: int,
        allocate: Allocate[DeviceTensor],
        memory: DeviceTensor,
    ) -> None:
        """Args:
        cuda: The GPU.
        plans: In the order in which they run.
        size: Of a batch.
        allocate: Makes tensors; they belong to this object.
        memory: What all contexts use while they run, one after the other.

        Raises:
            EngineError: if the GPU has no memory for what goes in.
        """
        tensors: list[DeviceTensor] = []
        engines: list[CapturedEngine] = []
        self._tensors, self._engines = tensors, engines

        def new_tensor(shape: tuple[int, ...], dtype: str) -> DeviceTensor:
            tensors.append(allocate(shape, dtype))
            return tensors[-1]

        def new_engine(
            role: Role, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor]
        ) -> CapturedEngine:
            engines.append(CapturedEngine(cuda, plans[role], inputs, outputs, memory))
            return engines[-1]

        try:
            interfaces = {role: plan.interface for role, plan in plans.items()}
            self.chain = GraphChain(interfaces, size, new_tensor, new_engine)
        except EngineError:
            self.free()
            raise

    def free(self) -> None:
        """Frees all. The GPU must not be using it."""
        for engine in self._engines:
            engine.free()
        for tensor in self._tensors:
            tensor.free()


def _check(succeeded: bool, what: str) -> None:
    if not succeeded:
        raise EngineError(f"TensorRT {what}")
