"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import numpy.typing as npt

from dmgan_runtime.backends.base import Active, Tensor, choose
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BackendError, BundleError, EngineError, SettingsError
from dmgan_runtime.interface import check_tensors
from dmgan_runtime.manifest import ROLES, GraphEntry, Precision, Role, TensorEntry

if TYPE_CHECKING:
    import onnxruntime as ort

MAX_THREADS = 1024
DEVICES = ("cpu",)
PRECISIONS: tuple[Precision, ...] = ("fp32",)
_DTYPES: dict[str, Literal["float32", "int64"]] = {"tensor(float)": "float32", "tensor(int64)": "int64"}
_LOG_ERRORS = 3


class OnnxRuntimeBackend:
    """A bundle's graphs as ONNX Runtime sessions on the CPU. See `Backend` for the methods."""

    def __init__(self, bundle: Bundle, *, device: str, precision: str, threads: int | None) -> None:
        """Loads every graph of the chosen precision. See `open_backend` for the arguments and the errors."""
        engine = _import_engine()
        name = f"onnxruntime {engine.__version__}"
        chosen_device = choose("device", device, DEVICES, f"the backend {name}")
        chosen_precision = cast(Precision, choose("precision", precision, PRECISIONS, f"{name} on the CPU"))
        options = _session_options(engine, _check_threads(threads))
        self._sessions = {
            role: _load(engine, options, bundle, _graph(bundle, role, chosen_precision)) for role in ROLES
        }
        self.active = Active(
            backend="onnxruntime",
            version=engine.__version__,
            device=chosen_device,
            precision=chosen_precision,
            threads=options.intra_op_num_threads,
            reason=f"{name} on the CPU in fp32 is all that this version of dmgan serves with",
        )

    def run(self, role: Role, feeds: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """See `Backend.run`; a tensor is a numpy array."""
        try:
            values = self._sessions[role].run(list(outputs), dict(feeds))
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            raise EngineError(f"onnxruntime failed in {role} ({error}); try fewer images at once") from error
        return dict(zip(outputs, values, strict=True))

    def to_host(self, tensor: Tensor) -> npt.NDArray[np.float32]:
        """See `Backend.to_host`."""
        return cast("npt.NDArray[np.float32]", tensor)

    def close(self) -> None:
        """Nothing to do: a session is freed with its last reference, so a run in another thread may finish."""


def _import_engine() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f'the backend onnxruntime cannot be imported ({error}); install it with: pip install "dmgan[cpu]"'
        ) from error
    return cast(ModuleType, onnxruntime)


def _check_threads(threads: int | None) -> int:
    if threads is None:
        # Not 0, ONNX Runtime's own default: it pins threads to cores that a container may not be allowed to use.
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
        raise SettingsError(f"threads is {threads!r}; pass a whole number from 1 to {MAX_THREADS}, or None for all")
    return threads


def _session_options(engine: ModuleType, threads: int) -> ort.SessionOptions:
    options = engine.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _LOG_ERRORS
    # Each graph has its own pool, and one that spins after its graph is done takes the cores from the next graph:
    # four small graphs in turn took 64 ms with spinning and 26 ms without (two cores).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A graph given as bytes reads its external data from the working directory. Those files are in no manifest, so
    # they are looked for where there can be none.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    return options


def _graph(bundle: Bundle, role: Role, precision: Precision) -> GraphEntry:
    graph = bundle.manifest.graph(role, precision)
    if graph is None:
        raise BundleError(f"{bundle.path}: has no {role} graph in {precision}; export the bundle again")
    return graph


def _load(engine: ModuleType, options: ort.SessionOptions, bundle: Bundle, graph: GraphEntry) -> ort.InferenceSession:
    where = f"{bundle.path}/{graph.file.path}"
    content = bundle.read(graph.file)
    try:
        session = engine.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base of their own
        raise EngineError(
            f"{where}: onnxruntime {engine.__version__} cannot load it ({error}); upgrade onnxruntime, or export"
            " the bundle again, with all weights inside the graph"
        ) from error
    check_tensors(tuple(map(_describe, session.get_inputs())), graph.inputs, f"{where}, inputs")
    check_tensors(tuple(map(_describe, session.get_outputs())), graph.outputs, f"{where}, outputs")
    return session


def _describe(node: ort.NodeArg) -> TensorEntry:
    shape: tuple[int | Literal["batch"], ...] = tuple(side if isinstance(side, int) else "batch" for side in node.shape)
    return TensorEntry(name=node.name, dtype=_DTYPES.get(node.type, node.type), shape=shape)
