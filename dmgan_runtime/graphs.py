"""The contract of the graphs: what goes in and out of each, and how one feeds the next.

Export, every backend and the benchmarks ask here; nothing else knows a graph's tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from dmgan_runtime.errors import BundleError, shortened
from dmgan_runtime.manifest import Manifest, ModelSpec, Role, TensorEntry

IMAGE: frozenset[str] = frozenset({"image"})
"""The outputs that every user wants."""

EVERYTHING: frozenset[str] = IMAGE | {"attention", "writing_gate", "response_gate"}
"""All that a stage can hand out. A graph computes attention and gates anyway; unwanted ones are not fetched."""

_PASSED_ON: frozenset[str] = frozenset({"word_features", "sentence_feature", "features"})

Tensor = TypeVar("Tensor")
RunGraph: TypeAlias = Callable[[Role, Mapping[str, Tensor], Sequence[str]], Mapping[str, Tensor]]
"""Runs one graph: its role, its inputs by name, and the names of the outputs to return."""


class Interface(NamedTuple):
    """The inputs and the outputs of a graph."""

    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]


def graph_interface(role: Role, spec: ModelSpec, max_words: int) -> Interface:
    """The interface of one graph. Every axis but the batch is fixed.

    - `text_encoder`: tokens [N, T] int64, lengths [N] int64
      -> word_features [N, D, T], sentence_feature [N, D].
    - `generator_0`: sentence_feature, noise [N, z], condition_noise [N, c]
      -> image [N, 3, R, R] in [-1, 1], features [N, Ng, R, R].
    - `generator_1` and those after it: previous_features [N, Ng, r, r], word_features, lengths
      -> image [N, 3, R, R], features [N, Ng, R, R], attention [N, T, r, r] (a softmax over the words, 0 at
      padding), writing_gate [N, T] and response_gate [N, 1, r, r] (each only if the memory has that gate).

    A stage's features are the next stage's previous_features (ONNX forbids an input and an output of one name); the
    last stage has none.

    Args:
        role: The graph.
        spec: The model's shape: D, Ng, z, c, and the resolutions r -> R.
        max_words: T, the words of a caption.
    """
    words = _tensor("word_features", spec.text_features, max_words)
    sentence = _tensor("sentence_feature", spec.text_features)
    lengths = _tensor("lengths", dtype="int64")
    if role == "text_encoder":
        return Interface((_tensor("tokens", max_words, dtype="int64"), lengths), (words, sentence))

    stage = spec.generator_roles.index(role)
    side, channels = spec.resolutions[stage], spec.generator_channels
    outputs = [_tensor("image", 3, side, side)]
    if stage < spec.stages - 1:
        outputs.append(_tensor("features", channels, side, side))
    if stage == 0:
        noise = _tensor("noise", spec.noise_features)
        condition_noise = _tensor("condition_noise", spec.condition_features)
        return Interface((sentence, noise, condition_noise), tuple(outputs))

    previous = spec.resolutions[stage - 1]
    outputs.append(_tensor("attention", max_words, previous, previous))
    if spec.memory_writing == "gated":
        outputs.append(_tensor("writing_gate", max_words))
    if spec.memory_response == "gated":
        outputs.append(_tensor("response_gate", 1, previous, previous))
    return Interface((_tensor("previous_features", channels, previous, previous), words, lengths), tuple(outputs))


def graph_interfaces(spec: ModelSpec, max_words: int) -> dict[Role, Interface]:
    """The interface of every graph, in the order in which they run."""
    return {role: graph_interface(role, spec, max_words) for role in spec.roles}


def run_graphs(
    run: RunGraph[Tensor],
    interfaces: Mapping[Role, Interface],
    known: Mapping[str, Tensor],
    wanted: Collection[str] = EVERYTHING,
) -> Iterator[tuple[Role, Mapping[str, Tensor]]]:
    """Runs graphs one after the other, each when the iterator is asked for it, and feeds each what it takes.

    Args:
        run: Runs one graph. The tensors may be of any kind: the chain only hands them on.
        interfaces: The graphs to run, in order: the text encoder and the first stages, or the first stages alone.
        known: The tensors at hand by name: the inputs that no graph makes.
        wanted: The outputs that are asked of every stage, where it has them; what the next graphs need comes beside.

    Yields:
        A graph, and the outputs that `run` returned.
    """
    at_hand = dict(known)
    *_, last = interfaces
    for role, interface in interfaces.items():
        names = [
            entry.name
            for entry in interface.outputs
            if entry.name in wanted or (entry.name in _PASSED_ON and role != last)
        ]
        outputs = run(role, {entry.name: at_hand[entry.name] for entry in interface.inputs}, names)
        yield role, outputs
        at_hand |= outputs
        if "features" in outputs:
            at_hand["previous_features"] = outputs["features"]


def check_interfaces(manifest: Manifest, source: str) -> None:
    """Checks that every graph of a manifest has the interface that its model spec asks for.

    Raises:
        BundleError: naming the graph and what differs.
    """
    for graph in manifest.graphs:
        expected = graph_interface(graph.role, manifest.model, manifest.tokenizer.max_words)
        where = f"{source}: graph {graph.file.path}"
        check_tensors(graph.inputs, expected.inputs, f"{where}, inputs")
        check_tensors(graph.outputs, expected.outputs, f"{where}, outputs")


def check_tensors(found: tuple[TensorEntry, ...], expected: tuple[TensorEntry, ...], where: str) -> None:
    """Checks tensors by name, in any order.

    Raises:
        BundleError: if any is missing, too many, or of another type or shape.
    """
    if sorted(map(_describe, found)) != sorted(map(_describe, expected)):
        raise BundleError(
            f"{where}: found {shortened(', '.join(map(_describe, found)) or 'none')}, but expected"
            f" {', '.join(map(_describe, expected))}; export the bundle again with this version of dmgan"
        )


def _tensor(name: str, *shape: int, dtype: Literal["float32", "int64"] = "float32") -> TensorEntry:
    return TensorEntry(name=name, dtype=dtype, shape=("batch", *shape))


def _describe(tensor: TensorEntry) -> str:
    return f"{tensor.name} {tensor.dtype}[{', '.join(map(str, tensor.shape))}]"
