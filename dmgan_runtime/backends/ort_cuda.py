"""ONNX Runtime on an NVIDIA GPU: what goes from stage to stage stays there."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, TypeVar, TypeVarTuple

import numpy as np

from dmgan_runtime.backends.base import (
    Active,
    Array,
    EngineSettings,
    choose_precision,
    form_for_cpus,
    graphs_of,
    is_engines,
)
from dmgan_runtime.backends.gpus import find_gpu
from dmgan_runtime.backends.graph_chain import GraphChain
from dmgan_runtime.backends.ort_cpu import installed_rivals, load_session, session_options
from dmgan_runtime.backends.registry import find_engine_row
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BackendError, EngineError, shortened
from dmgan_runtime.graphs import graph_interfaces
from dmgan_runtime.manifest import GraphEntry, Role
from dmgan_runtime.request import Batch, TextFeatures
from dmgan_runtime.results import StageOutput
from dmgan_runtime.tokenizer import Tokens

if TYPE_CHECKING:
    import onnxruntime as ort

_ENGINE = find_engine_row("onnxruntime", "cuda")
_PROVIDER = "CUDAExecutionProvider"
_KEPT_SLOTS = 8
# ONNX Runtime gives a CUDA graph back only when the session ends. So this bounds what is left behind by batch sizes
# that are ever new ones, or more in turn than there are slots.
_MAX_CAPTURES = 64
_NOT_CAPTURED = "-1"

_LOG = logging.getLogger(__name__)
_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")


class BoundGraph(NamedTuple):
    """A graph whose inputs and outputs are bound to buffers on the GPU."""

    binding: ort.IOBinding
    outputs: Mapping[str, ort.OrtValue]


class SlotKey(NamedTuple):
    """What one slot is good for: its buffers have fixed shapes, and a CUDA graph is of one binding.

    Attributes:
        size: Of the batch.
        encodes: Whether the text encoder is in front.
    """

    size: int
    encodes: bool


@dataclass(eq=False)
class BufferSlot:
    """The buffers of one batch at a time; a stage's features are where the next stage reads them.

    Every output has a buffer of its own. One that ONNX Runtime allocated by itself would lie where it keeps
    intermediate results, and CUDA graphs that were captured before write there.

    Attributes:
        key: What it is good for.
        chain: Its buffers and what runs on them; None once they are free.
        graph_id: Names its CUDA graphs in ONNX Runtime, whose replays use the buffers that they were captured with.
    """

    key: SlotKey
    chain: GraphChain[ort.OrtValue, BoundGraph] | None
    graph_id: str = _NOT_CAPTURED


class OrtCudaBackend:
    """A bundle's graphs as ONNX Runtime sessions on a GPU.

    One thread owns the sessions and all that lies on the GPU; the threads of users wait for it. ONNX Runtime keeps CUDA
    graphs, and the handles of cuBLAS and cuDNN with their workspaces, for each thread that runs a session: another
    thread would capture again, and what it leaves behind stays until the session ends. Moreover, CUDA forbids other
    threads to allocate memory while one captures.
    """

    def __init__(self, bundle: Bundle, settings: EngineSettings) -> None:
        """Loads every graph of the chosen precision."""
        self._engine, self._index = _ENGINE.import_package("onnxruntime"), settings.index
        chosen = choose_precision(bundle, settings.precision, _ENGINE.precisions, "onnxruntime on a GPU")
        spec = bundle.manifest.model
        self._interfaces = graph_interfaces(spec, bundle.manifest.tokenizer.max_words)
        self._resolutions = dict(zip(spec.generator_roles, spec.resolutions, strict=True))
        # Least recently used first. Slots come back without a lock, as appending to a list is atomic: the garbage
        # collector may end an abandoned batch in any thread, also in one that holds the lock.
        self._idle: list[BufferSlot] = []
        self._slots: set[BufferSlot] = set()
        self._uses: Counter[SlotKey] = Counter()
        self._graph_ids = iter(range(1, _MAX_CAPTURES + 1))
        self._sessions: dict[Role, ort.InferenceSession] = {}
        self._owner = ThreadPoolExecutor(1, thread_name_prefix="dmgan-cuda")
        try:
            self._owner.submit(self._load, bundle, graphs_of(bundle, chosen), settings).result()
        except BaseException:
            self.close()
            raise
        device, version = f"cuda:{self._index}", self._engine.__version__
        reason = form_for_cpus(graphs_of(bundle, chosen))
        self.active = Active("onnxruntime", version, device, chosen, settings.threads, reason=reason)

    @classmethod
    def probe(cls, index: int) -> str:
        engine = _ENGINE.import_package("onnxruntime")
        if _PROVIDER not in engine.get_available_providers():
            raise BackendError(f"onnxruntime {engine.__version__} here is built without CUDA; {_remedy()}")
        find_gpu(index)
        return str(engine.__version__)

    def encode(self, tokens: Tokens) -> TextFeatures:
        arrays = self._on_owner("text_encoder", self._encode, tokens)
        return TextFeatures(arrays["word_features"], arrays["sentence_feature"], tokens.lengths)

    def generate(
        self, batch: Batch, stages: int, wanted: Collection[str], *, at_once: bool = False
    ) -> Iterator[StageOutput]:
        slot = self._on_owner("the copy of its inputs", self._begin, batch.inputs)
        try:
            for role in tuple(self._interfaces)[not slot.key.encodes : stages + 1]:
                arrays = self._on_owner(role, self._run, slot, role, wanted)
                if role in self._resolutions:
                    yield StageOutput(self._resolutions[role], **arrays)
        finally:
            if slot.chain is not None:
                self._idle.append(slot)

    def close(self) -> None:
        self._owner.submit(self._free).result()
        self._owner.shutdown()

    def _on_owner(self, where: str, work: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        """Has the owner thread do something, and waits for it. The methods below run there, and nowhere else."""
        try:
            return self._owner.submit(work, *arguments).result()
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            if not is_engines(error, "onnxruntime"):
                raise
            raise EngineError(
                f"onnxruntime failed in {where} on cuda:{self._index} ({shortened(error)}); try fewer images at once"
            ) from error

    def _load(self, bundle: Bundle, graphs: Mapping[Role, GraphEntry], settings: EngineSettings) -> None:
        missing = _preload(self._engine)
        # Otherwise ONNX Runtime logs a line and takes the CPU, for one operator or, without CUDA's libraries, for all.
        options = session_options(self._engine, settings.threads, {"session.disable_cpu_ep_fallback": "1"})
        try:
            for role, graph in graphs.items():
                self._sessions[role] = load_session(
                    self._engine, options, bundle, graph, _PROVIDER, _provider_options(settings, role)
                )
        except EngineError as error:
            remedy = f"if CUDA or cuDNN is missing: {_ENGINE.install}"
            raise EngineError("; ".join([str(error), remedy, *missing])) from error

    def _free(self) -> None:
        for slot in list(self._slots):
            self._drop(slot)
        self._idle.clear()
        self._sessions.clear()

    def _encode(self, tokens: Tokens) -> dict[str, Array]:
        slot = self._begin(tokens._asdict())
        arrays = self._run(slot, "text_encoder", ("word_features", "sentence_feature"))
        self._idle.append(slot)
        return arrays

    def _begin(self, inputs: Mapping[str, Array]) -> BufferSlot:
        """A slot for a whole batch, with the batch in it."""
        key = SlotKey(len(inputs["lengths"]), "tokens" in inputs)
        slot = self._take(key)
        self._uses[key] += 1
        # Not for a size that comes once, nor for a slot that will not be kept.
        if slot.graph_id == _NOT_CAPTURED and self._uses[key] > 1 and len(self._slots) <= _KEPT_SLOTS:
            slot.graph_id = str(next(self._graph_ids, _NOT_CAPTURED))
        assert slot.chain is not None  # of a slot that was idle, or is new
        try:
            for name in slot.chain.inputs.keys() & inputs.keys():  # a model of one stage reads no words
                slot.chain.inputs[name].update_inplace(np.ascontiguousarray(inputs[name]))
        except Exception:
            self._drop(slot)
            raise
        return slot

    def _take(self, key: SlotKey) -> BufferSlot:
        self._drop_idle(keep=_KEPT_SLOTS)
        slot = next((slot for slot in reversed(self._idle) if slot.key == key), None)
        if slot is not None:
            self._idle.remove(slot)
            return slot
        self._drop_idle(keep=_KEPT_SLOTS - 1)
        interfaces = dict(list(self._interfaces.items())[not key.encodes :])
        slot = BufferSlot(key, GraphChain(interfaces, key.size, self._buffer, self._bind))
        self._slots.add(slot)
        return slot

    def _run(self, slot: BufferSlot, role: Role, wanted: Collection[str]) -> dict[str, Array]:
        """Runs a graph in a slot, and fetches what is wanted of its outputs."""
        assert slot.chain is not None  # while a batch has it
        try:
            graph = slot.chain[role]
            try:
                self._execute(role, graph, slot.graph_id)
            except Exception as error:
                if slot.graph_id == _NOT_CAPTURED:
                    raise
                self._execute(role, graph, _NOT_CAPTURED)
                self._stop_capturing(error)
            return {name: value.numpy() for name, value in graph.outputs.items() if name in wanted}
        except Exception:
            self._drop(slot)
            raise

    def _execute(self, role: Role, graph: BoundGraph, graph_id: str) -> None:
        options = self._engine.RunOptions()
        options.add_run_config_entry("gpu_graph_id", graph_id)
        self._sessions[role].run_with_iobinding(graph.binding, options)
        # Each session has a stream of its own, and the next one reads these outputs.
        graph.binding.synchronize_outputs()

    def _stop_capturing(self, error: Exception) -> None:
        """For good, after a run that failed with a CUDA graph and went well without."""
        _LOG.warning("ONNX Runtime runs without CUDA graphs, which is slower: %s", str(error))
        self._graph_ids = iter(())
        for slot in self._slots:
            slot.graph_id = _NOT_CAPTURED

    def _drop_idle(self, *, keep: int) -> None:
        """Frees idle slots, those without CUDA graphs first, until there are few enough with those in use."""
        while self._idle and len(self._slots) > keep:
            slot = next((slot for slot in self._idle if slot.graph_id == _NOT_CAPTURED), self._idle[0])
            self._idle.remove(slot)
            self._drop(slot)

    def _drop(self, slot: BufferSlot) -> None:
        """Frees a slot, also if a batch that was abandoned half-way still has it."""
        slot.chain = None
        self._slots.discard(slot)

    def _bind(self, role: Role, inputs: Mapping[str, ort.OrtValue], outputs: Mapping[str, ort.OrtValue]) -> BoundGraph:
        binding = self._sessions[role].io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return BoundGraph(binding, outputs)

    def _buffer(self, shape: tuple[int, ...], dtype: str) -> ort.OrtValue:
        make = self._engine.OrtValue.ortvalue_from_shape_and_type
        allocate = partial(make, list(shape), dtype, "cuda", self._index)
        try:
            return allocate()
        except Exception:
            if not self._idle:
                raise
            self._drop_idle(keep=0)
            return allocate()


def _provider_options(settings: EngineSettings, role: Role) -> dict[str, str]:
    """The options of ONNX Runtime's CUDA provider for one graph; the user's own come last and so win."""
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
            f" pip uninstall onnxruntime onnxruntime-gpu, then {_ENGINE.install}"
        )
    return f"pip uninstall onnxruntime, then {_ENGINE.install}"
