"""What a backend is: one engine that has loaded a bundle on one device, in one precision."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, cast, get_args

import numpy.typing as npt

from dmgan_runtime.bundle import Bundle
from dmgan_runtime.cpus import usable_cpus
from dmgan_runtime.errors import BackendError, BundleError, SettingsError
from dmgan_runtime.graphs import graph_interfaces, run_graphs
from dmgan_runtime.manifest import Arithmetic, GraphEntry, Precision, Role
from dmgan_runtime.onnx_file import check_onnx_file
from dmgan_runtime.request import Batch, TextFeatures
from dmgan_runtime.results import StageOutput
from dmgan_runtime.tokenizer import Tokens

MAX_THREADS = 1024

Array: TypeAlias = npt.NDArray[Any]

State: TypeAlias = Literal["chosen", "missing", "broken", "untried"]

busy_at_fork: set[str] = set()
"""The engines that were at work in the parent when this process was forked."""

PRECISIONS = ("auto", *get_args(Precision), "bf16")
"""The values of the argument `precision`."""


@dataclass(frozen=True)
class Candidate:
    """An engine on a device that `auto` considered, and why it was or was not chosen.

    Attributes:
        backend: The engine.
        device: `cpu`, or `cuda:0` and so on.
        state: `missing` cannot be had here; `broken` is here and fails; `untried` comes after the chosen one.
        verdict: Why it was chosen, or why not and what would change that.
        precision: What it would compute in; None if its plans decide.
    """

    backend: str
    device: str
    state: State
    verdict: str
    precision: Arithmetic | None = None

    @property
    def way(self) -> str:
        """The engine, the device and the precision, in words."""
        return f"{self.backend} on {self.device}" + (f" in {self.precision}" if self.precision else "")

    def __str__(self) -> str:
        return f"{self.way}: {self.verdict}"


@dataclass(frozen=True)
class Active:
    """What was chosen to run a bundle. As text it is a short line for logs: "onnxruntime 1.32.0 on cpu in fp32".

    Attributes:
        backend: The engine, for example `onnxruntime`.
        version: The engine's version.
        device: Where it runs: `cpu`, or `cuda:0` and so on.
        precision: What it computes in. The text encoder is computed in fp32 whatever this says.
        threads: How many CPU threads compute one operator.
        max_batch: How many images one run takes at most; None for as many as memory holds.
        reason: Why these were chosen, in words.
        considered: Every engine that was thought of, best first, and why the others were not chosen.
    """

    backend: str
    version: str
    device: str
    precision: Arithmetic
    threads: int
    max_batch: int | None = None
    reason: str = ""
    considered: tuple[Candidate, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return f"{self.backend} {self.version} on {self.device} in {self.precision}"


@dataclass(frozen=True)
class EngineSettings:
    """What is asked of an engine, beside the bundle.

    Attributes:
        index: N of `cuda:N`; 0 on a CPU.
        precision: "auto" or a precision.
        acceptable: What "auto" may become.
        threads: CPU threads for one operator.
        named: Whether the user named this engine, and so trusts what the bundle holds for it alone.
        options: The engine's own options.
    """

    index: int = 0
    precision: str = "auto"
    acceptable: Collection[Arithmetic] = frozenset[Arithmetic]({"fp32"})
    threads: int = 1
    named: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """An engine that has loaded a bundle. Many threads may call it at once.

    A backend runs a whole batch: what one stage leaves for the next never leaves the engine.

    Attributes:
        active: What it is.
    """

    active: Active

    def __init__(self, bundle: Bundle, settings: EngineSettings) -> None:
        """Loads a bundle's graphs.

        Args:
            bundle: An open bundle; it may be closed afterwards.
            settings: What is asked for.

        Raises:
            BackendError: if the precision, or something else that the engine needs, cannot be had.
            BundleError: if a graph is missing, damaged, or not what the manifest says.
            EngineError: if the engine cannot load a graph.
        """
        ...

    @classmethod
    def probe(cls, index: int) -> str:
        """The version of the engine, if it is installed and its device is there.

        Raises:
            BackendError: saying what is missing and how to get it.
        """
        ...

    def encode(self, tokens: Tokens) -> TextFeatures:
        """Runs the text encoder.

        Raises:
            EngineError: if the engine fails.
        """
        ...

    def generate(
        self, batch: Batch, stages: int, wanted: Collection[str], *, at_once: bool = False
    ) -> Iterator[StageOutput]:
        """Makes the images of a batch.

        Args:
            batch: At least one image, and at most `active.max_batch`.
            stages: How many stages to compute, from 1.
            wanted: Names of a stage's outputs, `image` among them (`graphs.EVERYTHING` has all); the others are not
                fetched.
            at_once: Whether nobody looks at a stage before the last one is there: an engine may then compute all of
                them as one graph.

        Returns:
            An iterator over the stages, smallest first; it computes each when it is asked for it, or all `at_once`.

        Raises:
            EngineError: if the engine fails, while iterating.
        """
        ...

    def close(self) -> None:
        """Frees the engine. Nobody is using it."""
        ...


class GraphBackend(ABC):
    """A backend that runs one graph at a time and hands arrays of the host from graph to graph, as CPU engines do."""

    active: Active

    def __init__(self, bundle: Bundle) -> None:
        """Remembers how the graphs of a bundle chain."""
        spec = bundle.manifest.model
        self._interfaces = graph_interfaces(spec, bundle.manifest.tokenizer.max_words)
        self._resolutions = dict(zip(spec.generator_roles, spec.resolutions, strict=True))

    @abstractmethod
    def run(self, role: Role, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Runs one graph; see `graphs.RunGraph`.

        Raises:
            EngineError: if the engine fails.
        """

    def encode(self, tokens: Tokens) -> TextFeatures:
        outputs = self.run("text_encoder", tokens._asdict(), ("word_features", "sentence_feature"))
        return TextFeatures(outputs["word_features"], outputs["sentence_feature"], tokens.lengths)

    def generate(
        self, batch: Batch, stages: int, wanted: Collection[str], *, at_once: bool = False
    ) -> Iterator[StageOutput]:
        roles = list(self._interfaces)[: stages + 1]
        if isinstance(batch.text, TextFeatures):
            roles.remove("text_encoder")
        chain = {role: self._interfaces[role] for role in roles}
        for role, outputs in run_graphs(self.run, chain, batch.inputs, wanted):
            if role in self._resolutions:
                arrays = {name: array for name, array in outputs.items() if name != "features"}
                yield StageOutput(self._resolutions[role], **arrays)

    @abstractmethod
    def close(self) -> None:
        """Drops what was loaded; a stream that nobody ends would keep it."""


def is_engines(error: Exception, module: str) -> bool:
    """Whether an engine raised an error, and not a handler of a signal that came while it ran.

    Args:
        error: What came out of a call of the engine.
        module: The engine's; its own errors are of this module, or plain ones.
    """
    plain = (RuntimeError, ValueError, TypeError, MemoryError, SystemError, IndexError, KeyError)
    return type(error) in plain or type(error).__module__.startswith(module)


def check_threads(threads: int | None) -> int:
    """How many CPU threads to compute with.

    Args:
        threads: From 1 to `MAX_THREADS`, or None for every CPU that this process may use.

    Raises:
        SettingsError: if it is anything else.
    """
    if threads is None:
        # Not the engines' own default: they would pin threads to cores that a container may not be allowed to use.
        return usable_cpus()
    try:
        number = operator.index(threads)
    except TypeError:
        number = 0
    if isinstance(threads, bool) or not 1 <= number <= MAX_THREADS:
        raise SettingsError(f"threads is {threads!r}; pass a whole number from 1 to {MAX_THREADS}, or None for all")
    return number


def check_precision(bundle: Bundle, asked: str) -> None:
    """Checks that a precision exists and the bundle has it, before any engine is tried.

    Args:
        bundle: The bundle, whose generator graphs are in one or more precisions.
        asked: "auto" or a precision.

    Raises:
        BackendError: naming those that there are.
    """
    if asked not in PRECISIONS:
        raise BackendError(f"precision {asked!r} is unknown; pass one of {', '.join(map(repr, PRECISIONS))}")
    available = generator_precisions(bundle)
    if asked != "auto" and _graph_precision(cast(Arithmetic, asked)) not in available:
        flag = "" if asked in ("fp32", "bf16") else f" with --{asked}"
        raise BackendError(
            f"{bundle.path} has no generator graphs for precision {asked!r}, but {', '.join(available) or 'none'};"
            f" export it again{flag}, or pass precision='auto'"
        )


def choose_precision(bundle: Bundle, asked: str, offered: Sequence[Arithmetic], engine: str) -> Arithmetic:
    """What was asked for, or for "auto" the first that both the engine and the bundle have.

    Args:
        bundle: The bundle, whose generator graphs are in one or more precisions.
        asked: "auto" or a precision that `check_precision` passed.
        offered: What the engine computes in, best first.
        engine: The engine and its device, for the message.

    Raises:
        BackendError: if it cannot be had. It never becomes another.
    """
    available = [name for name in offered if _graph_precision(name) in generator_precisions(bundle)]
    if asked == "auto" and available:
        return available[0]
    if asked in available:
        return asked
    if asked == "auto":
        raise BackendError(
            f"{bundle.path} has no generator graphs in {' or '.join(offered)}, but"
            f" {', '.join(generator_precisions(bundle)) or 'none'}; export it again"
        )
    choices = " or ".join(f"precision={name!r}" for name in (*available, "auto"))
    raise BackendError(f"{engine} does not compute in precision {asked!r}; pass {choices}")


def graphs_of(bundle: Bundle, precision: Arithmetic) -> dict[Role, GraphEntry]:
    """The graphs to compute with; the text encoder is always the fp32 one.

    Raises:
        BundleError: if one is missing.
    """
    wanted: dict[Role, Precision] = {"text_encoder": "fp32"}
    wanted |= dict.fromkeys(bundle.manifest.model.generator_roles, _graph_precision(precision))
    graphs: dict[Role, GraphEntry] = {}
    for role, stored in wanted.items():
        graph = bundle.manifest.graph(role, stored)
        if graph is None:
            raise BundleError(f"{bundle.path}: has no {role} graph in {stored}; export the bundle again")
        graphs[role] = graph
    return graphs


def form_for_cpus(graphs: Mapping[Role, GraphEntry]) -> str:
    """What a user of a GPU should know of graphs whose up blocks have the form for CPUs; empty if they have not."""
    if not any(graph.up_blocks == "phases" for graph in graphs.values()):
        return ""
    return (
        "its up blocks have the form for CPUs; dmgan-export --fp16, or --up-blocks transposed, makes the one for GPUs"
    )


def read_graph(bundle: Bundle, graph: GraphEntry) -> bytes:
    """A graph, proven to be the one that was exported, and looked through before an engine sees it.

    Args:
        bundle: An open bundle.
        graph: What the manifest says of it.

    Raises:
        BundleError: if it is missing, cannot be read, or is another.
        EngineError: if it is no file that `dmgan-export` may have written.
    """
    content = bundle.read(graph.file)
    check_onnx_file(content, f"{bundle.path}/{graph.file.path}")
    return content


def generator_precisions(bundle: Bundle) -> list[Precision]:
    """The precisions in which a bundle has any of its generator graphs."""
    return list(dict.fromkeys(graph.precision for graph in bundle.manifest.graphs if graph.role != "text_encoder"))


def _graph_precision(precision: Arithmetic) -> Precision:
    return "fp32" if precision == "bf16" else precision
