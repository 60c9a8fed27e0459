"""TensorRT and TensorRT for RTX, from the engines that lie in a bundle."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt

from dmgan_runtime.backends.base import Active, Tensor
from dmgan_runtime.backends.cuda import Cuda, import_runtime
from dmgan_runtime.backends.driver import find_gpu
from dmgan_runtime.backends.engines import FoundEngine, find_engine
from dmgan_runtime.backends.garbage import without_garbage_collection
from dmgan_runtime.backends.lanes import Lane, LanePool, Plan
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.engine_manifest import EngineName
from dmgan_runtime.errors import BackendError, BundleError, EngineError
from dmgan_runtime.interface import check_tensors, graph_interface
from dmgan_runtime.manifest import GENERATOR_ROLES, ROLES, Role, TensorEntry

# Two overlap the copies of one thread with the work of another; the GPU gains nothing from more, which take memory.
_LANES = 2
_DTYPES: dict[str, Literal["float32", "int64"]] = {"FLOAT": "float32", "INT64": "int64"}


class TensorRtBackend:
    """A bundle's plans as TensorRT engines on one GPU. See `Backend` for the methods.

    Attributes:
        name: The Python module.
        extra: What installs it.
    """

    name: ClassVar[EngineName] = "tensorrt"
    extra: ClassVar[str] = "tensorrt"

    def __init__(self, bundle: Bundle, *, index: int, precision: str, threads: int, named: bool = False) -> None:
        """Loads the best engine that the bundle has for this GPU. See `BackendClass`."""
        self._module = _import_engine(self.name, self.extra)
        version = str(self._module.__version__)
        capability = find_gpu(index).compute_capability
        found = find_engine(bundle, self.name, version, capability, precision, host_code=named)
        assert found.manifest.profile is not None  # of every engine for GPUs
        self._log = _new_log(self._module)
        cuda = Cuda(import_runtime(), index)
        cuda.enter_thread()
        plans = {role: self._load(bundle, found, role) for role in ROLES}
        self._lanes = LanePool(cuda, lambda: Lane(cuda, plans), _LANES)
        # Also for a generator that nobody closes. Nothing that is reachable from here may refer to this object. Not at
        # exit: the driver frees all then, and in a forked process it is the parent's.
        self._free = weakref.finalize(self, _free, self._lanes, cuda)
        self._free.atexit = False
        self.active = Active(
            backend=self.name,
            version=version,
            device=f"cuda:{index}",
            precision=found.manifest.precision,
            threads=threads,
            max_batch=found.manifest.profile.max,
            reason=f"with the engine {found.folder}",
        )

    @classmethod
    def probe(cls, index: int) -> str:
        """See `BackendClass.probe`."""
        if find_spec(cls.name) is None:
            raise BackendError(f'{cls.name} is not installed; install it with: pip install "dmgan[{cls.extra}]"')
        # Before the import, which is slow, and in vain without a GPU.
        find_gpu(index)
        import_runtime()
        return str(_import_engine(cls.name, cls.extra).__version__)

    def run(self, role: Role, feeds: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """See `Backend.run`; a tensor is a `DeviceTensor`."""
        rows = next(iter(feeds.values())).shape[0]
        if self.active.max_batch is not None and rows > self.active.max_batch:
            raise EngineError(
                f"{self.name} was given {rows} images at once, and this engine takes {self.active.max_batch} at most;"
                f" pass fewer, or build another with: dmgan-export build-engine --max-batch {rows}"
            )
        self._log.errors.clear()
        try:
            with self._lanes.take() as lane:
                return lane.run(role, feeds, outputs)
        except EngineError as error:
            said = "; ".join([str(error), *self._log.errors])
            raise EngineError(f"{self.name} failed in {role} ({said}); try fewer images at once") from error

    def to_host(self, tensor: Tensor) -> npt.NDArray[np.float32]:
        """See `Backend.to_host`."""
        with self._lanes.take() as lane:
            return lane.fetch(tensor)

    def close(self) -> None:
        """See `Backend.close`."""
        self._free()

    def _load(self, bundle: Bundle, found: FoundEngine, role: Role) -> Plan:
        entry = found.manifest.plan(role)
        assert entry is not None
        where = f"{bundle.path}/{found.folder}/{entry.file.path}"
        build = f"dmgan-export build-engine {bundle.path} --engine {self.name}"
        remedy = f"remove {found.folder} and build it again with: {build}"
        try:
            content = found.read(bundle, entry)
        except BundleError as error:
            raise EngineError(f"{error}, or {remedy}") from error
        try:
            with without_garbage_collection():
                runtime = self._module.Runtime(self._log)
        except TypeError as error:  # what its factory's null pointer becomes in Python
            raise EngineError(f"{self.name} cannot start: {self._said(str(error))}; update the GPU's driver") from error
        # Code for the CPU: `find_engine` takes such a plan only if the user named this engine.
        runtime.engine_host_code_allowed = found.manifest.version_compatible
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise EngineError(f"{where}: {self.name} cannot load it: {self._said('it does not say why')}; {remedy}")
        interface = graph_interface(role, bundle.manifest.model, bundle.manifest.tokenizer.max_words)
        inputs, outputs = _describe(self._module, engine)
        try:
            check_tensors(inputs, interface.inputs, f"{where}, inputs")
            check_tensors(outputs, interface.outputs, f"{where}, outputs")
        except BundleError as error:
            raise EngineError(f"{error}, or {remedy}") from error
        # The loop of an LSTM cannot be captured, and what depends on lengths would be captured with the first ones.
        capture = role in GENERATOR_ROLES
        return Plan(
            new_context=partial(self._new_context, self._module, engine, capture),
            memory=int(engine.device_memory_size_v2),
            interface=interface,
            capture=capture and self._captures_itself,
        )

    # TensorRT for RTX records CUDA graphs by itself, once its kernels for a shape are compiled.
    _captures_itself: ClassVar[bool] = True

    @staticmethod
    def _new_context(module: Any, engine: Any, capture: bool) -> Any:
        return engine.create_execution_context(module.ExecutionContextAllocationStrategy.USER_MANAGED)

    def _said(self, otherwise: str) -> str:
        return "; ".join(self._log.errors) or otherwise


class TensorRtRtxBackend(TensorRtBackend):
    """The same with TensorRT for RTX, which compiles its kernels for the GPU when it loads a plan."""

    name: ClassVar[EngineName] = "tensorrt_rtx"
    extra: ClassVar[str] = "tensorrt-rtx"
    _captures_itself: ClassVar[bool] = False

    @staticmethod
    def _new_context(module: Any, engine: Any, capture: bool) -> Any:
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(module.ExecutionContextAllocationStrategy.USER_MANAGED)
        if capture:
            config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return engine.create_execution_context(config)


def _free(lanes: LanePool, cuda: Cuda) -> None:
    lanes.close()
    cuda.close()


def _import_engine(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except (ImportError, OSError) as error:  # OSError: the package without its libraries
        raise BackendError(f'{name} cannot be imported ({error}); install it with: pip install "dmgan[{extra}]"') from (
            error
        )


def _new_log(module: Any) -> Any:
    """A TensorRT logger that keeps the last errors, in its `errors`, and prints nothing."""
    severe = (module.ILogger.Severity.INTERNAL_ERROR, module.ILogger.Severity.ERROR)

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: deque[str] = deque(maxlen=8)

        def log(self, severity: Any, message: str) -> None:
            if severity in severe:
                self.errors.append(message.strip())

    return Log()


def _describe(module: Any, engine: Any) -> tuple[tuple[TensorEntry, ...], tuple[TensorEntry, ...]]:
    tensors: dict[bool, list[TensorEntry]] = {True: [], False: []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name).name
        shape: tuple[int | Literal["batch"], ...] = tuple(
            "batch" if side < 0 else int(side) for side in engine.get_tensor_shape(name)
        )
        entry = TensorEntry(name=name, dtype=_DTYPES.get(dtype, cast(Any, dtype)), shape=shape)
        tensors[engine.get_tensor_mode(name) == module.TensorIOMode.INPUT].append(entry)
    return tuple(tensors[True]), tuple(tensors[False])
