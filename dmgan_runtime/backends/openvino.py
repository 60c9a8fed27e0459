"""OpenVINO on the CPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from dmgan_runtime.backends.base import (
    Active,
    Array,
    EngineSettings,
    GraphBackend,
    busy_at_fork,
    choose_precision,
    graphs_of,
    is_engines,
    read_graph,
)
from dmgan_runtime.backends.registry import find_engine_row
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BackendError, BundleError, EngineError, shortened
from dmgan_runtime.graphs import IMAGE, check_tensors
from dmgan_runtime.manifest import Arithmetic, GraphEntry, Role, TensorEntry
from dmgan_runtime.request import Batch, TextFeatures
from dmgan_runtime.results import StageOutput

if TYPE_CHECKING:
    import openvino as ov

_ENGINE = find_engine_row("openvino")
_GENERATORS = "generators"
_DTYPES: dict[str, Literal["float32", "int64"]] = {"f32": "float32", "i64": "int64"}


class OpenVinoBackend(GraphBackend):
    """A bundle's graphs as OpenVINO's compiled models.

    The generators are compiled as one model, so that features never leave OpenVINO. Each is compiled by itself when it
    is first needed so: by a stream, for attention, or for a smaller resolution.
    """

    def __init__(self, bundle: Bundle, settings: EngineSettings) -> None:
        """Loads every graph of the chosen precision."""
        super().__init__(bundle)
        if "openvino" in busy_at_fork:
            # It loads no graph then: the child hung in most of 8 tries (2026.4).
            raise BackendError(
                "openvino was at work when this process was forked, and hangs here then; start processes with spawn,"
                " not fork"
            )
        engine = _ENGINE.import_package("openvino")
        self._core = _open_core(engine)
        chosen = choose_precision(bundle, settings.precision, _ENGINE.precisions, "openvino on the CPU")
        if chosen == "bf16":
            _check_bf16(self._core)
        self._path, self._graphs, self._settings = bundle.path, graphs_of(bundle, chosen), settings
        self._lock = Lock()
        self.active = Active("openvino", _version(engine), "cpu", chosen, settings.threads)
        models = {role: _read(self._core, bundle, graph) for role, graph in self._graphs.items()}
        encoder = models.pop("text_encoder")
        self._programs = {
            "text_encoder": self._compile("text_encoder", encoder),
            _GENERATORS: self._compile(_GENERATORS, _join(models)),
        }

    @classmethod
    def probe(cls, index: int) -> str:
        return _version(_ENGINE.import_package("openvino"))

    def run(self, role: Role, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        program = self._program(role)
        parts = _rows(inputs) if _takes_one_row(role) else [inputs]
        made = list(map(partial(program.infer, outputs=outputs), parts))
        return made[0] if len(made) == 1 else {name: np.concatenate([part[name] for part in made]) for name in outputs}

    def generate(
        self, batch: Batch, stages: int, wanted: Collection[str], *, at_once: bool = False
    ) -> Iterator[StageOutput]:
        if at_once and stages == len(self._resolutions) and wanted == IMAGE:
            return self._generate_at_once(batch)
        return super().generate(batch, stages, wanted)

    def _generate_at_once(self, batch: Batch) -> Iterator[StageOutput]:
        inputs = batch.inputs
        if not isinstance(batch.text, TextFeatures):
            inputs |= self.run("text_encoder", inputs, ("word_features", "sentence_feature"))
        images = self._programs[_GENERATORS].infer(inputs, self._resolutions)
        for role, resolution in self._resolutions.items():
            yield StageOutput(resolution, images[role])

    def close(self) -> None:
        self._programs.clear()

    def _program(self, role: Role) -> Program:
        """A graph by itself, compiled when it is first asked for."""
        with self._lock:
            if role not in self._programs:
                try:
                    with Bundle(self._path) as bundle:
                        model = _read(self._core, bundle, self._graphs[role])
                except BundleError as error:
                    raise EngineError(f"{error}; the bundle must stay as it was while it is open") from error
                self._programs[role] = self._compile(role, model)
            return self._programs[role]

    def _compile(self, name: str, model: ov.Model) -> Program:
        try:
            compiled = self._core.compile_model(
                model, "CPU", compile_options(name, self.active.precision, self._settings)
            )
        except Exception as error:  # OpenVINO raises plain RuntimeErrors
            raise _cannot_load(f"{self._path}, {name}", error) from error
        return Program(name, compiled)


class Program:
    """A compiled model that many threads may run."""

    def __init__(self, name: str, model: ov.CompiledModel) -> None:
        """Args:
        name: Of the graph, for messages.
        model: It takes arrays by name.
        """
        self._name, self._model = name, model
        self._inputs = [node.get_any_name() for node in model.inputs]
        # A request serves one thread at a time, so each run takes one.
        self._idle: deque[ov.InferRequest] = deque()

    def infer(self, inputs: Mapping[str, Array], outputs: Iterable[str]) -> dict[str, Array]:
        """Runs the model; inputs that it does not take are left aside.

        Raises:
            EngineError: if OpenVINO fails.
        """
        try:
            request = self._take_request()
            results = request.infer(
                {name: inputs[name] for name in self._inputs}, share_inputs=True, share_outputs=True
            )
            arrays = {name: np.array(results[name]) for name in outputs}
        except Exception as error:  # OpenVINO's errors are RuntimeErrors, and numpy adds its own for wrong shapes
            if not is_engines(error, "openvino"):
                raise
            raise EngineError(
                f"openvino failed in {self._name} ({shortened(error)}); try fewer images at once"
            ) from error
        self._idle.append(request)
        return arrays

    def _take_request(self) -> ov.InferRequest:
        try:
            return self._idle.pop()
        except IndexError:
            return self._model.create_infer_request()


def _takes_one_row(role: Role) -> bool:
    # With a free batch axis OpenVINO 2026.4 leaves an LSTM's sequence_lens out of account: it reads the padding too,
    # and every caption but the longest comes out wrong. With a fixed axis it is right.
    return role == "text_encoder"


def _rows(inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
    count = len(next(iter(inputs.values())))
    return [{name: array[row : row + 1] for name, array in inputs.items()} for row in range(count)]


def _open_core(engine: ModuleType) -> ov.Core:
    """A Core whose CPU plugin was loaded in a thread that is over.

    OpenVINO 2026.4 gives the thread that loads the plugin a stack for handlers of signals, and whichever thread drops
    the plugin frees it. If the first were alive then, its next signal, such as Ctrl-C, would be a segmentation fault.
    """

    def load() -> ov.Core:
        core = engine.Core()
        _capabilities(core)
        return cast("ov.Core", core)

    try:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(load).result()
    except RuntimeError as error:
        raise BackendError(
            f"openvino's CPU plugin cannot be loaded ({shortened(error)}); install it anew: {_ENGINE.install}"
        ) from error


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


def compile_options(name: str, precision: Arithmetic, settings: EngineSettings) -> dict[str, Any]:
    """OpenVINO's properties for one model; a user's own come last and so win.

    Args:
        name: The graph, or all the generators.
        precision: `bf16` rounds the generators' fp32 graphs to bf16.
        settings: What is asked for.
    """
    rounded = precision == "bf16" and name != "text_encoder"
    return {
        # Left to itself, OpenVINO rounds to bf16 wherever the CPU has it.
        "INFERENCE_PRECISION_HINT": "bf16" if rounded else "f32",
        "INFERENCE_NUM_THREADS": settings.threads,
        "NUM_STREAMS": 1,
        # A pinned thread may sit on a core that this process must share, or is not allowed to use.
        "ENABLE_CPU_PINNING": False,
        **settings.options,
    }


def _read(core: ov.Core, bundle: Bundle, graph: GraphEntry) -> ov.Model:
    where = f"{bundle.path}/{graph.file.path}"
    content = read_graph(bundle, graph)
    try:
        model = core.read_model(content)
    except Exception as error:  # OpenVINO raises plain RuntimeErrors
        raise _cannot_load(where, error) from error
    check_tensors(tuple(map(_describe, model.inputs)), graph.inputs, f"{where}, inputs")
    check_tensors(tuple(map(_describe, model.outputs)), graph.outputs, f"{where}, outputs")
    if _takes_one_row(graph.role):
        model.reshape({entry.name: [1, *entry.shape[1:]] for entry in graph.inputs})
    return model


def _join(models: Mapping[Role, ov.Model]) -> ov.Model:
    """One model of the stages, in order; its outputs are their images, by role."""
    from openvino import Model, opset13

    inputs: dict[str, Any] = {}
    images, features = [], None
    for role, model in models.items():
        made = {node.get_any_name(): node.get_node().input_value(0) for node in model.outputs}
        for parameter in model.get_parameters():
            name = parameter.output(0).get_any_name()
            if name == "previous_features":
                parameter.output(0).replace(features)
            elif name in inputs:
                parameter.output(0).replace(inputs[name].output(0))
            else:
                inputs[name] = parameter
        features = made.get("features")
        image = opset13.result(made["image"])
        image.output(0).set_names({role})
        images.append(image)
    return Model(images, list(inputs.values()), _GENERATORS)


def _cannot_load(where: str, error: Exception) -> EngineError:
    return EngineError(
        f"{where}: openvino cannot load it ({shortened(error)}); upgrade openvino, or export the bundle again"
    )


def _describe(node: Any) -> TensorEntry:
    shape: tuple[int | Literal["batch"], ...] = tuple(
        "batch" if side.is_dynamic else side.get_length() for side in node.get_partial_shape()
    )
    dtype = node.get_element_type().get_type_name()
    return TensorEntry(name=node.get_any_name(), dtype=_DTYPES.get(dtype, dtype), shape=shape)
