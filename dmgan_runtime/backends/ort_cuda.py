"""ONNX Runtime on an NVIDIA GPU: what goes from stage to stage stays there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import count
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from dmgan_runtime.backends.base import Active, Arithmetic, Array, EngineSettings, choose_precision, graphs_of
from dmgan_runtime.backends.gpus import find_gpu
from dmgan_runtime.backends.ort_cpu import import_engine, installed_rivals, load_session, session_options
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BackendError, EngineError
from dmgan_runtime.graphs import graph_interfaces, run_graphs
from dmgan_runtime.manifest import GraphEntry, Role
from dmgan_runtime.request import Batch, TextFeatures
from dmgan_runtime.results import StageOutput
from dmgan_runtime.tokenizer import Tokens

if TYPE_CHECKING:
    import onnxruntime as ort

_PRECISIONS: tuple[Arithmetic, ...] = ("fp16", "fp32")
_PROVIDER = "CUDAExecutionProvider"
_DEVICE = "cuda"
_IDLE_SLOTS = 8
_MAX_CAPTURES = 64
_NOT_CAPTURED = "-1"
_TEXT_FEATURES = frozenset({"word_features", "sentence_feature"})

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class BoundGraph(NamedTuple):
    """A graph whose inputs and outputs are bound to buffers on the GPU."""

    binding: ort.IOBinding
    outputs: dict[str, ort.OrtValue]


class SlotKey(NamedTuple):
    """What one slot is good for: its buffers have fixed shapes, and a CUDA graph is of one binding.

    Attributes:
        size: Of the batch.
        roles: The graphs to run, in order.
        wanted: The outputs that are fetched.
    """

    size: int
    roles: tuple[Role, ...]
    wanted: frozenset[str]


@dataclass(eq=False)
class BufferSlot:
    """The buffers of one batch at a time; a stage's features are where the next stage reads them.

    Every output has a buffer of its own. One that ONNX Runtime allocated by itself would lie where it keeps
    intermediate results, and CUDA graphs that were captured before write there.

    Attributes:
        key: What it is good for.
        inputs: What is copied to the GPU.
        graphs: What runs.
        graph_id: Names its CUDA graphs in ONNX Runtime, whose replays use the buffers that they were captured with.
        uses: How many batches it has had.
        is_free: Whether its buffers are gone.
    """

    key: SlotKey
    inputs: dict[str, ort.OrtValue]
    graphs: dict[Role, BoundGraph]
    graph_id: str = _NOT_CAPTURED
    uses: int = 0
    is_free: bool = False


class OrtCudaBackend:
    """A bundle's graphs as ONNX Runtime sessions on a GPU.

    One thread owns the sessions and all that lies on the GPU; the threads of users wait for it. ONNX Runtime keeps CUDA
    graphs, and the handles of cuBLAS and cuDNN with their workspaces, for each thread that runs a session: another
    thread would capture again, and what it leaves behind stays until the session ends. Moreover, CUDA forbids other
    threads to allocate memory while one captures.
    """

    def __init__(self, bundle: Bundle, settings: EngineSettings) -> None:
        """Loads every graph of the chosen precision. See `Backend`."""
        self._engine, self._index = import_engine("gpu"), settings.index
        chosen = choose_precision(bundle, settings.precision, _PRECISIONS, "onnxruntime on a GPU")
        spec = bundle.manifest.model
        self._interfaces = graph_interfaces(spec, bundle.manifest.tokenizer.max_words)
        self._resolutions = dict(zip(spec.generator_roles, spec.resolutions, strict=True))
        # Least recently used first. Slots come back without a lock, as appending to a list is atomic: the garbage
        # collector may end an abandoned batch in any thread, also in one that holds the lock.
        self._idle: list[BufferSlot] = []
        self._slots: set[BufferSlot] = set()
        self._graph_ids = map(str, count(1))
        self._captures_left = _MAX_CAPTURES
        self._sessions: dict[Role, ort.InferenceSession] = {}
        self._owner = ThreadPoolExecutor(1, thread_name_prefix="dmgan-cuda")
        try:
            self._owner.submit(self._load, bundle, graphs_of(bundle, chosen), settings).result()
        except BaseException:
            self.close()
            raise
        self.active = Active("onnxruntime", self._engine.__version__, f"cuda:{self._index}", chosen, settings.threads)

    @classmethod
    def probe(cls, index: int) -> str:
        """See `Backend`."""
        engine = import_engine("gpu")
        if _PROVIDER not in engine.get_available_providers():
            raise BackendError(f"onnxruntime {engine.__version__} here is built without CUDA; {_remedy()}")
        find_gpu(index)
        return str(engine.__version__)

    def encode(self, tokens: Tokens) -> TextFeatures:
        """See `Backend`."""
        arrays = self._on_owner("text_encoder", self._encode, tokens)
        return TextFeatures(arrays["word_features"], arrays["sentence_feature"], tokens.lengths)

    def generate(self, batch: Batch, stages: int, wanted: Collection[str]) -> Iterator[StageOutput]:
        """See `Backend`."""
        roles = tuple(self._interfaces)[isinstance(batch.text, TextFeatures) : stages + 1]
        slot = self._on_owner(
            "the copy of its inputs", self._begin, SlotKey(batch.size, roles, frozenset(wanted)), batch.inputs
        )
        try:
            for role in roles:
                arrays = self._on_owner(role, self._run, slot, role)
                if role in self._resolutions:
                    yield StageOutput(self._resolutions[role], **arrays)
        finally:
            if not slot.is_free:
                self._idle.append(slot)

    def close(self) -> None:
        """See `Backend`."""
        self._owner.submit(self._free).result()
        self._owner.shutdown()

    def _on_owner(
        self,
        where: str,
        work: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> _Result:
        """Has the owner thread do something, and waits for it. The methods below run there, and nowhere else."""
        try:
            return self._owner.submit(work, *arguments, **named).result()
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            raise EngineError(
                f"onnxruntime failed in {where} on cuda:{self._index} ({error}); try fewer images at once"
            ) from error

    def _load(self, bundle: Bundle, graphs: Mapping[Role, GraphEntry], settings: EngineSettings) -> None:
        missing = _preload(self._engine)
        options = cuda_session_options(self._engine, settings.threads)
        try:
            for role, graph in graphs.items():
                self._sessions[role] = load_session(
                    self._engine, options, bundle, graph, _PROVIDER, cuda_options(settings, role)
                )
        except EngineError as error:
            remedy = 'if CUDA or cuDNN is missing: pip install "dmgan[gpu]"'
            raise EngineError("; ".join([str(error), remedy, *missing])) from error

    def _free(self) -> None:
        for slot in list(self._slots):
            self._drop(slot)
        self._idle.clear()
        self._sessions.clear()

    def _encode(self, tokens: Tokens) -> dict[str, Array]:
        slot = self._begin(SlotKey(len(tokens.lengths), ("text_encoder",), _TEXT_FEATURES), tokens._asdict())
        arrays = self._run(slot, "text_encoder")
        self._idle.append(slot)
        return arrays

    def _begin(self, key: SlotKey, inputs: Mapping[str, Array]) -> BufferSlot:
        """A slot for a whole batch, with the batch in it."""
        while len(self._idle) > _IDLE_SLOTS:
            self._drop(self._idle.pop(0))
        slot = next((slot for slot in reversed(self._idle) if slot.key == key), None)
        if slot is None:
            slot = self._new_slot(key, inputs)
        else:
            self._idle.remove(slot)
        slot.uses += 1
        # ONNX Runtime gives a CUDA graph back only when the session ends. So none is captured for a batch size that
        # comes once, nor for more sizes in turn than there are slots, nor for ever new ones.
        if slot.uses > 1 and slot.graph_id == _NOT_CAPTURED and self._captures_left:
            slot.graph_id = next(self._graph_ids)
            self._captures_left -= 1
        for name, array in inputs.items():
            slot.inputs[name].update_inplace(np.ascontiguousarray(array))
        return slot

    def _run(self, slot: BufferSlot, role: Role) -> dict[str, Array]:
        """Runs a graph in a slot, and fetches what is wanted of its outputs."""
        graph = slot.graphs[role]
        options = self._engine.RunOptions()
        options.add_run_config_entry("gpu_graph_id", slot.graph_id)
        try:
            self._sessions[role].run_with_iobinding(graph.binding, options)
            # Each session has a stream of its own, and the next one reads these outputs.
            graph.binding.synchronize_outputs()
            return {name: value.numpy() for name, value in graph.outputs.items() if name in slot.key.wanted}
        except Exception:
            self._drop(slot)  # a CUDA graph in it may be half captured
            raise

    def _drop(self, slot: BufferSlot) -> None:
        """Frees a slot, also if a batch that was abandoned half-way still has it."""
        slot.is_free = True
        slot.graphs.clear()
        slot.inputs.clear()
        self._slots.discard(slot)

    def _new_slot(self, key: SlotKey, inputs: Mapping[str, Array]) -> BufferSlot:
        buffers = {name: self._buffer(array.shape, array.dtype) for name, array in inputs.items()}
        graphs: dict[Role, BoundGraph] = {}

        def bind(role: Role, given: Mapping[str, ort.OrtValue], names: Sequence[str]) -> dict[str, ort.OrtValue]:
            shapes = {entry.name: (key.size, *entry.shape[1:]) for entry in self._interfaces[role].outputs}
            outputs = {name: self._buffer(shapes[name], np.float32) for name in names}
            graphs[role] = BoundGraph(self._sessions[role].io_binding(), outputs)
            for name, value in given.items():
                graphs[role].binding.bind_ortvalue_input(name, value)
            for name, value in outputs.items():
                graphs[role].binding.bind_ortvalue_output(name, value)
            return outputs

        for _ in run_graphs(bind, {role: self._interfaces[role] for role in key.roles}, buffers, key.wanted):
            pass
        slot = BufferSlot(key, buffers, graphs)
        self._slots.add(slot)
        return slot

    def _buffer(self, shape: Sequence[Any], dtype: Any) -> ort.OrtValue:
        return self._engine.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, _DEVICE, self._index)


def cuda_session_options(engine: ModuleType, threads: int) -> ort.SessionOptions:
    """How every session runs: wholly on the GPU."""
    # Otherwise ONNX Runtime logs a line and takes the CPU, for one operator or, without CUDA's libraries, for all.
    return session_options(engine, threads, {"session.disable_cpu_ep_fallback": "1"})


def cuda_options(settings: EngineSettings, role: Role) -> dict[str, str]:
    """The options of ONNX Runtime's CUDA provider for one graph; the user's own come last and so win.

    Args:
        settings: What is asked of the engine.
        role: The graph.
    """
    options = {
        "device_id": settings.index,
        "enable_cuda_graph": 1,
        "prefer_nhwc": 1,
        # fp32 is for those who want what PyTorch computed; TF32 keeps 10 bits of a product. fp16 is for speed.
        "use_tf32": 0,
        # An exhaustive search takes what was fastest in its trial: another process may get another image.
        "cudnn_conv_algo_search": "HEURISTIC",
        **settings.options,
    }
    if role == "text_encoder":
        # Its LSTM reads the lengths on the CPU: a CUDA graph would keep those that it was captured with.
        options["enable_cuda_graph"] = 0
    return {name: str(value) for name, value in options.items()}


def _preload(engine: ModuleType) -> list[str]:
    """Loads the CUDA libraries that pip installed; returns what it printed of those that it did not find."""
    # Nothing but what was asked for belongs on a command's standard output.
    with redirect_stdout(StringIO()) as printed:
        engine.preload_dlls()
    return printed.getvalue().splitlines()


def _remedy() -> str:
    if len(installed_rivals()) > 1:
        return (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other:"
            ' pip uninstall onnxruntime onnxruntime-gpu, then pip install "dmgan[gpu]"'
        )
    return 'pip uninstall onnxruntime, then pip install "dmgan[gpu]"'
