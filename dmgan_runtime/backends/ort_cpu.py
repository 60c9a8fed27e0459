"""ONNX Runtime on the CPU, and what its CUDA sibling shares with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from dmgan_runtime.backends.base import (
    Active,
    Array,
    EngineSettings,
    GraphBackend,
    choose_precision,
    graphs_of,
    is_engines,
    read_graph,
)
from dmgan_runtime.backends.registry import find_engine_row, installed_versions
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import EngineError, SettingsError, shortened
from dmgan_runtime.graphs import check_tensors
from dmgan_runtime.manifest import GraphEntry, Role, TensorEntry

if TYPE_CHECKING:
    import onnxruntime as ort

_ENGINE = find_engine_row("onnxruntime", "cpu")
_DTYPES: dict[str, Literal["float32", "int64"]] = {"tensor(float)": "float32", "tensor(int64)": "int64"}
_LOG_ERRORS = 3


class OrtCpuBackend(GraphBackend):
    """A bundle's graphs as ONNX Runtime sessions on the CPU."""

    def __init__(self, bundle: Bundle, settings: EngineSettings, roles: Collection[Role] | None = None) -> None:
        """Loads every graph of the chosen precision, or those of `roles`."""
        super().__init__(bundle)
        engine = _ENGINE.import_package("onnxruntime")
        chosen = choose_precision(bundle, settings.precision, _ENGINE.precisions, "onnxruntime on the CPU")
        options = session_options(engine, settings.threads, settings.options)
        self._sessions = {
            role: load_session(engine, options, bundle, graph, "CPUExecutionProvider", {})
            for role, graph in graphs_of(bundle, chosen).items()
            if roles is None or role in roles
        }
        self.active = Active("onnxruntime", engine.__version__, "cpu", chosen, settings.threads)

    @classmethod
    def probe(cls, index: int) -> str:
        return str(_ENGINE.import_package("onnxruntime").__version__)

    def run(self, role: Role, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        try:
            values = self._sessions[role].run(list(outputs), dict(inputs))
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            if not is_engines(error, "onnxruntime"):
                raise
            raise EngineError(f"onnxruntime failed in {role} ({shortened(error)}); try fewer images at once") from error
        return dict(zip(outputs, values, strict=True))

    def close(self) -> None:
        self._sessions.clear()


def installed_rivals() -> dict[str, str]:
    """The versions of the packages that provide the module onnxruntime; two of them overwrite each other."""
    return {name: number for name, number in installed_versions().items() if name.startswith("onnxruntime")}


def session_options(engine: ModuleType, threads: int, entries: Mapping[str, Any]) -> ort.SessionOptions:
    """How every session runs.

    Args:
        engine: The module onnxruntime.
        threads: CPU threads for one operator.
        entries: A user's own session configuration entries, which come last and so win.
    """
    options = engine.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _LOG_ERRORS
    # Each graph has its own pool, and one that spins after its graph is done takes the cores from the next graph:
    # four small graphs in turn took 64 ms with spinning and 26 ms without (two cores).
    for name, value in {"session.intra_op.allow_spinning": "0", **entries}.items():
        try:
            options.add_session_config_entry(name, str(value))
        except RuntimeError as error:
            raise SettingsError(f"engine_options: onnxruntime refuses {name!r} ({error})") from error
    return options


def load_session(
    engine: ModuleType,
    options: ort.SessionOptions,
    bundle: Bundle,
    graph: GraphEntry,
    provider: str,
    provider_options: Mapping[str, Any],
) -> ort.InferenceSession:
    """A graph, checked and loaded.

    Raises:
        BundleError: if the graph is damaged, or not what the manifest says.
        EngineError: if it cannot be loaded.
    """
    where = f"{bundle.path}/{graph.file.path}"
    content = read_graph(bundle, graph)
    try:
        # By itself it prints a failure and tries again on the CPU, also in a run.
        session = engine.InferenceSession(
            content, options, providers=[(provider, dict(provider_options))], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's errors have no common base of their own
        if not is_engines(error, "onnxruntime"):
            raise
        raise EngineError(
            f"{where}: onnxruntime {engine.__version__} cannot load it ({shortened(error)}); upgrade onnxruntime,"
            " or export the bundle again"
        ) from error
    check_tensors(tuple(map(_describe, session.get_inputs())), graph.inputs, f"{where}, inputs")
    check_tensors(tuple(map(_describe, session.get_outputs())), graph.outputs, f"{where}, outputs")
    return session


def _describe(node: ort.NodeArg) -> TensorEntry:
    shape: tuple[int | Literal["batch"], ...] = tuple(side if isinstance(side, int) else "batch" for side in node.shape)
    return TensorEntry(name=node.name, dtype=_DTYPES.get(node.type, node.type), shape=shape)
