"""OpenVINO on the CPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from dmgan_runtime.backends.base import (
    Active,
    Arithmetic,
    Array,
    EngineSettings,
    GraphBackend,
    choose_precision,
    graphs_of,
    is_engines,
    read_graph,
)
from dmgan_runtime.backends.registry import find_engine_row
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BackendError, EngineError
from dmgan_runtime.graphs import check_tensors
from dmgan_runtime.manifest import GraphEntry, Role, TensorEntry

if TYPE_CHECKING:
    import openvino as ov

_ENGINE = find_engine_row("openvino")
_DTYPES: dict[str, Literal["float32", "int64"]] = {"f32": "float32", "i64": "int64"}


class OpenVinoBackend(GraphBackend):
    """A bundle's graphs as OpenVINO's compiled models."""

    def __init__(self, bundle: Bundle, settings: EngineSettings) -> None:
        """Loads every graph of the chosen precision."""
        super().__init__(bundle)
        engine = _import_engine()
        core = _open_core(engine)
        chosen = choose_precision(bundle, settings.precision, _ENGINE.precisions, "openvino on the CPU")
        if chosen == "bf16":
            _check_bf16(core)
        self._models = {
            role: _load(core, bundle, graph, compile_options(role, chosen, settings))
            for role, graph in graphs_of(bundle, chosen).items()
        }
        # A request serves one thread at a time, so each run takes one.
        self._idle: dict[Role, deque[ov.InferRequest]] = {role: deque() for role in self._models}
        self.active = Active("openvino", _version(engine), "cpu", chosen, settings.threads)

    @classmethod
    def probe(cls, index: int) -> str:
        return _version(_import_engine())

    def run(self, role: Role, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        try:
            request = self._idle[role].pop()
        except IndexError:
            request = self._models[role].create_infer_request()
        parts = _rows(inputs) if _takes_one_row(role) else [inputs]
        made: dict[str, list[Array]] = {name: [] for name in outputs}
        try:
            for part in parts:
                results = request.infer(dict(part), share_inputs=True, share_outputs=True)
                for name in outputs:
                    made[name].append(np.array(results[name]))
        except Exception as error:  # OpenVINO's errors are RuntimeErrors, and numpy adds its own for wrong shapes
            if not is_engines(error, "openvino"):
                raise
            raise EngineError(f"openvino failed in {role} ({_line(error)}); try fewer images at once") from error
        self._idle[role].append(request)
        return {name: arrays[0] if len(arrays) == 1 else np.concatenate(arrays) for name, arrays in made.items()}

    def close(self) -> None:
        self._idle.clear()
        self._models.clear()


def _takes_one_row(role: Role) -> bool:
    # With a free batch axis OpenVINO 2026.4 leaves an LSTM's sequence_lens out of account: it reads the padding too,
    # and every caption but the longest comes out wrong. With a fixed axis it is right.
    return role == "text_encoder"


def _rows(inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
    count = len(next(iter(inputs.values())))
    return [{name: array[row : row + 1] for name, array in inputs.items()} for row in range(count)]


def _import_engine() -> ModuleType:
    try:
        import openvino
    except ImportError as error:
        raise BackendError(f"openvino cannot be imported ({error}); install it with: {_ENGINE.install}") from error
    return cast(ModuleType, openvino)


def _open_core(engine: ModuleType) -> ov.Core:
    """A Core whose CPU plugin was loaded in a thread that is over.

    OpenVINO 2026.4 gives the thread that loads the plugin a stack for handlers of signals, and whichever thread drops
    the plugin frees it. If the first were alive then, its next signal, such as Ctrl-C, would be a segmentation fault.
    """

    def load() -> ov.Core:
        core = engine.Core()
        _capabilities(core)
        return cast("ov.Core", core)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(load).result()


def _version(engine: ModuleType) -> str:
    """Without the build: `2026.4.1-22982-e213a147257-releases/2026/4` is 2026.4.1."""
    return str(engine.__version__).partition("-")[0]


def _capabilities(core: ov.Core) -> list[str]:
    return list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _check_bf16(core: ov.Core) -> None:
    capabilities = _capabilities(core)
    if "BF16" not in capabilities:
        raise BackendError(
            f"this CPU does not compute in precision 'bf16' (OpenVINO finds {', '.join(capabilities)}); it takes one"
            " with AVX-512 BF16 or AMX; pass precision='fp32' or precision='auto'"
        )


def compile_options(role: Role, precision: Arithmetic, settings: EngineSettings) -> dict[str, Any]:
    """OpenVINO's properties for one graph; a user's own come last and so win.

    Args:
        role: The graph.
        precision: `bf16` rounds the generators' fp32 graphs to bf16.
        settings: What is asked for.
    """
    rounded = precision == "bf16" and role != "text_encoder"
    return {
        # Left to itself, OpenVINO rounds to bf16 wherever the CPU has it.
        "INFERENCE_PRECISION_HINT": "bf16" if rounded else "f32",
        "INFERENCE_NUM_THREADS": settings.threads,
        "NUM_STREAMS": 1,
        # A pinned thread may sit on a core that this process must share, or is not allowed to use.
        "ENABLE_CPU_PINNING": False,
        **settings.options,
    }


def _load(core: ov.Core, bundle: Bundle, graph: GraphEntry, options: Mapping[str, Any]) -> ov.CompiledModel:
    where = f"{bundle.path}/{graph.file.path}"
    content = read_graph(bundle, graph)
    try:
        model = core.read_model(content)
    except Exception as error:  # OpenVINO raises plain RuntimeErrors
        raise _cannot_load(where, error) from error
    check_tensors(tuple(map(_describe, model.inputs)), graph.inputs, f"{where}, inputs")
    check_tensors(tuple(map(_describe, model.outputs)), graph.outputs, f"{where}, outputs")
    try:
        if _takes_one_row(graph.role):
            model.reshape({entry.name: [1, *entry.shape[1:]] for entry in graph.inputs})
        return core.compile_model(model, "CPU", dict(options))
    except Exception as error:  # OpenVINO raises plain RuntimeErrors
        raise _cannot_load(where, error) from error


def _cannot_load(where: str, error: Exception) -> EngineError:
    return EngineError(
        f"{where}: openvino cannot load it ({_line(error)}); upgrade openvino, or export the bundle again"
    )


def _line(error: Exception) -> str:
    """What OpenVINO says in many lines, in one."""
    return " ".join(str(error).split())


def _describe(node: Any) -> TensorEntry:
    shape: tuple[int | Literal["batch"], ...] = tuple(
        "batch" if side.is_dynamic else side.get_length() for side in node.get_partial_shape()
    )
    dtype = node.get_element_type().get_type_name()
    return TensorEntry(name=node.get_any_name(), dtype=_DTYPES.get(dtype, dtype), shape=shape)
