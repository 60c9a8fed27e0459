"""TensorRT and TensorRT for RTX, from the engines that lie in a bundle."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, cast

from dmgan_runtime.backends.base import Active, Array, EngineSettings
from dmgan_runtime.backends.built_engines import FoundEngine, find_engine
from dmgan_runtime.backends.gpus import Gpu, find_gpu
from dmgan_runtime.backends.registry import find_engine_row
from dmgan_runtime.backends.tensorrt.api import new_log, without_garbage_collection
from dmgan_runtime.backends.tensorrt.cuda import Cuda, import_runtime
from dmgan_runtime.backends.tensorrt.engines import LoadedPlan
from dmgan_runtime.backends.tensorrt.execution import ExecutionSlot, SlotPool
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BackendError, BundleError, EngineError
from dmgan_runtime.graphs import Interface, check_tensors, graph_interfaces
from dmgan_runtime.manifest import Role, TensorEntry
from dmgan_runtime.request import Batch, TextFeatures
from dmgan_runtime.results import StageOutput
from dmgan_runtime.tokenizer import Tokens

_DTYPES: dict[str, Literal["float32", "int64"]] = {"FLOAT": "float32", "INT64": "int64"}


class TensorRtBackend:
    """A bundle's plans as TensorRT engines on one GPU."""

    name: ClassVar[str] = "tensorrt"

    def __init__(self, bundle: Bundle, settings: EngineSettings) -> None:
        """Loads the best engine that the bundle has for this GPU."""
        version, gpu = self.probe(settings.index), find_gpu(settings.index)
        found = find_engine(bundle, self.name, version, gpu.compute_capability, settings)
        assert found.manifest.profile is not None  # of every engine for GPUs
        spec = bundle.manifest.model
        self._roles = spec.roles
        self._resolutions = dict(zip(spec.generator_roles, spec.resolutions, strict=True))
        self._max_batch = found.manifest.profile.max
        self._module = find_engine_row(self.name).import_package(self.name)
        self._log = new_log(self._module)
        self._cuda = Cuda(import_runtime(), settings.index)
        self._cuda.enter_thread()
        interfaces = graph_interfaces(spec, bundle.manifest.tokenizer.max_words)
        plans = {role: self._load(bundle, found, role, interface) for role, interface in interfaces.items()}
        self._slots = SlotPool(self._cuda, plans)
        # Also for a generator that nobody closes. Nothing that is reachable from here may refer to this object. Not at
        # exit: the driver frees all then, and in a forked process it is the parent's.
        self._free = weakref.finalize(self, self._slots.close)
        self._free.atexit = False
        self.active = Active(
            backend=self.name,
            version=version,
            device=f"cuda:{settings.index}",
            precision=found.manifest.precision,
            threads=settings.threads,
            max_batch=self._max_batch,
            reason=f"with the engine {found.folder}",
        )

    @classmethod
    def probe(cls, index: int) -> str:
        if find_spec(cls.name) is None:
            raise BackendError(f"{cls.name} is not installed; {_remedy(cls.name)}")
        # Before the import, which is slow, and in vain without a GPU.
        gpu = find_gpu(index)
        try:
            import_runtime()
        except (ImportError, OSError) as error:  # OSError: the package without its libraries
            raise BackendError(f"cuda-bindings cannot be imported ({error}); {_remedy(cls.name)}") from error
        module = find_engine_row(cls.name).import_package(cls.name)
        cls._check_gpu(module, gpu)
        return str(module.__version__)

    def encode(self, tokens: Tokens) -> TextFeatures:
        with self._lend(tokens._asdict()) as slot, self._turn("text_encoder"):
            arrays = slot.run("text_encoder", ("word_features", "sentence_feature"))
        return TextFeatures(arrays["word_features"], arrays["sentence_feature"], tokens.lengths)

    def generate(
        self, batch: Batch, stages: int, wanted: Collection[str], *, at_once: bool = False
    ) -> Iterator[StageOutput]:
        roles = self._roles[isinstance(batch.text, TextFeatures) : stages + 1]
        with self._lend(batch.inputs) as slot:
            for role in roles:
                with self._turn(role):
                    arrays = slot.run(role, wanted)
                if role in self._resolutions:
                    yield StageOutput(self._resolutions[role], **arrays)

    def close(self) -> None:
        self._free()

    @contextmanager
    def _lend(self, inputs: Mapping[str, Array]) -> Iterator[ExecutionSlot]:
        """Lends a slot for a whole batch, and copies the batch to the GPU."""
        size = len(inputs["lengths"])
        if size > self._max_batch:
            raise EngineError(
                f"{self.name} was given {size} images at once, and this engine takes {self._max_batch} at most; pass"
                f" fewer, or build another with: dmgan-export build-engine --max-batch {size}"
            )
        slot: ExecutionSlot | None = None
        try:
            with self._turn("the copy of its inputs"):
                slot = self._slots.take()
                slot.load(inputs)
            yield slot
        finally:
            if slot is not None:
                self._slots.give_back(slot)

    @contextmanager
    def _turn(self, where: str) -> Iterator[None]:
        """Waits until this thread may use the GPU; errors say where they arose, and what TensorRT said of them."""
        with self._slots.turns:
            errors = self._log.of_thread.errors
            errors.clear()
            try:
                self._cuda.enter_thread()
                yield
            except EngineError as error:
                said = "; ".join([str(error), *errors])
                raise EngineError(f"{self.name} failed in {where} ({said}); try fewer images at once") from error

    def _load(self, bundle: Bundle, found: FoundEngine, role: Role, interface: Interface) -> LoadedPlan:
        entry = found.manifest.plan(role)
        assert entry is not None  # of every graph
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
        # Code for the CPU: `find_engine` takes no plan that is neither named nor built here.
        runtime.engine_host_code_allowed = found.manifest.version_compatible
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise EngineError(f"{where}: {self.name} cannot load it: {self._said('it does not say why')}; {remedy}")
        inputs, outputs = _describe(self._module, engine)
        try:
            check_tensors(inputs, interface.inputs, f"{where}, inputs")
            check_tensors(outputs, interface.outputs, f"{where}, outputs")
        except BundleError as error:
            raise EngineError(f"{error}, or {remedy}") from error
        # The loop of an LSTM cannot be captured, and what depends on lengths would be captured with the first ones.
        capture = role in self._resolutions
        return LoadedPlan(
            new_context=self._context_maker(engine, capture),
            memory=int(engine.device_memory_size_v2),
            interface=interface,
            capture=capture and self._captures_graphs,
        )

    _captures_graphs: ClassVar[bool] = True
    """Whether CUDA graphs are for us to capture."""

    @classmethod
    def _check_gpu(cls, module: Any, gpu: Gpu) -> None:
        """Whether the engine runs on this GPU at all; of TensorRT, the plan says so."""

    def _context_maker(self, engine: Any, capture: bool) -> Callable[[], Any]:
        """What makes contexts of an engine, without memory of their own."""
        return partial(engine.create_execution_context, self._module.ExecutionContextAllocationStrategy.USER_MANAGED)

    def _said(self, otherwise: str) -> str:
        return "; ".join(self._log.errors) or otherwise


class TensorRtRtxBackend(TensorRtBackend):
    """A bundle's plans as engines of TensorRT for RTX, which compiles kernels here and captures CUDA graphs itself."""

    name: ClassVar[str] = "tensorrt_rtx"
    _captures_graphs: ClassVar[bool] = False

    @classmethod
    def _check_gpu(cls, module: Any, gpu: Gpu) -> None:
        members = module.ComputeCapability.__members__
        targets = sorted(int(value) for name, value in members.items() if name.startswith("SM"))
        if gpu.compute_capability not in targets:
            raise BackendError(
                f"{cls.name} {module.__version__} does not run on {gpu.name}, which is sm_{gpu.compute_capability}, but"
                f" on {', '.join(f'sm_{target}' for target in targets)}; use backend='tensorrt'"
            )

    def _context_maker(self, engine: Any, capture: bool) -> Callable[[], Any]:
        module = self._module
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(module.ExecutionContextAllocationStrategy.USER_MANAGED)
        # By default it begins with kernels for any shape, and changes to others once it has compiled them in the
        # background: the same seed would be another image then.
        eager = module.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
        if capture:
            config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return partial(engine.create_execution_context, config)


def _remedy(name: str) -> str:
    return f"install it with: {find_engine_row(name).install}"


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
