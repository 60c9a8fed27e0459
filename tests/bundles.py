"""A tiny bundle for tests: hand-written graphs with the real interface, masks, gates and fixed weights."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

from dmgan_runtime.aliases import aliases_to_json
from dmgan_runtime.graphs import Interface, graph_interface
from dmgan_runtime.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    FileEntry,
    GraphEntry,
    Manifest,
    ModelSpec,
    Role,
    TensorEntry,
    TokenizerEntry,
)
from dmgan_runtime.tokenizer import PAD, Tokenizer

WORDS = (PAD, "a", "red", "blue", "green", "round", "heart", "square", "and", "small")
MAX_WORDS = 6
SPEC = ModelSpec(
    base_resolution=8,
    generator_channels=4,
    text_features=6,
    embedding_features=5,
    noise_features=3,
    condition_features=2,
    memory_features=4,
    residual_blocks=1,
)
ROLES = SPEC.roles
GENERATOR_ROLES = SPEC.generator_roles
_OPSET = 20

_TEXT_ENCODER = """{
    embedded = Gather(embedding, tokens)
    column = Unsqueeze(lengths, last)
    real = Less(positions, column)
    real_float = Cast<to = 1>(real)
    mask = Unsqueeze(real_float, last)
    masked = Mul(embedded, mask)
    word_features = Transpose<perm = [0, 2, 1]>(masked)
    mean = ReduceMean<keepdims = 0>(masked, words_axis)
    count = Cast<to = 1>(column)
    sentence_feature = Div(mean, count)
}"""

_INITIAL_STAGE = """{
    joined = Concat<axis = 1>(sentence_feature, noise, condition_noise)
    dense = MatMul(joined, weight)
    grid = Reshape(dense, feature_shape)
    features = Tanh(grid)
    colours = Conv(features, to_colours)
    image = Tanh(colours)
}"""

_REFINEMENT_STAGE = """{
    slots = MatMul(projection, word_features)
    keys = Transpose<perm = [0, 2, 1]>(slots)
    pixels = Reshape(previous_features, flat_shape)
    logits = MatMul(keys, pixels)
    column = Unsqueeze(lengths, last)
    real = Less(positions, column)
    mask = Unsqueeze(real, last)
    masked = Where(mask, logits, lowest)
    weights = Softmax<axis = 1>(masked)
    attention = Reshape(weights, attention_shape)
    values = MatMul(slots, weights)
    read = Reshape(values, memory_shape)
    word_mean = ReduceMean<keepdims = 0>(word_features, words_axis)
    writing_gate = Sigmoid(word_mean)
    pixel_mean = ReduceMean(previous_features, words_axis)
    response_gate = Sigmoid(pixel_mean)
    difference = Sub(read, previous_features)
    gated = Mul(difference, response_gate)
    response = Add(previous_features, gated)
    four = Concat<axis = 1>(response, response, response, response)
    up = DepthToSpace<blocksize = 2>(four)
    features = Tanh(up)
    colours = Conv(features, to_colours)
    image = Tanh(colours)
}"""


def build_bundle(
    folder: Path, *, spec: ModelSpec = SPEC, words: tuple[str, ...] = WORDS, aliases: Mapping[str, str] | None = None
) -> Path:
    """Writes a whole bundle into `folder` and returns it. The same arguments give the same bytes."""
    (folder / "onnx").mkdir(parents=True)
    (folder / "vocab.json").write_bytes(Tokenizer(words).to_json())
    if aliases is not None:
        (folder / "aliases.json").write_bytes(aliases_to_json(aliases))
    for role in spec.roles:
        (folder / "onnx" / f"{role}.onnx").write_bytes(build_graph(role, spec, len(words)).SerializeToString())
    write_manifest(folder, spec)
    return folder


def build_graph(role: Role, spec: ModelSpec = SPEC, vocabulary: int = len(WORDS)) -> onnx.ModelProto:
    """One graph of the bundle."""
    body = {"text_encoder": _TEXT_ENCODER, "generator_0": _INITIAL_STAGE}.get(role, _REFINEMENT_STAGE)
    interface = graph_interface(role, spec, MAX_WORDS)
    graph = parser.parse_graph(f"{role} {_signature(interface)} {body}")
    graph.initializer.extend(
        numpy_helper.from_array(array, name)
        for name, array in _constants(role, spec, vocabulary, interface)
        if f"{name}," in body or f"{name})" in body
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def write_manifest(folder: Path, spec: ModelSpec = SPEC, **changes: Any) -> None:
    """Writes the manifest of the files that lie in `folder`; `changes` replace its fields."""
    graphs = []
    for role in spec.roles:
        interface = graph_interface(role, spec, MAX_WORDS)
        file = FileEntry.of(folder, f"onnx/{role}.onnx")
        graphs.append(GraphEntry(role=role, precision="fp32", file=file, opset=_OPSET, **interface._asdict()))
    aliases = FileEntry.of(folder, "aliases.json") if (folder / "aliases.json").exists() else None
    fields: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": "tiny",
        "license": "MIT",
        "model": spec,
        "tokenizer": TokenizerEntry(file=FileEntry.of(folder, "vocab.json"), max_words=MAX_WORDS, aliases=aliases),
        "graphs": tuple(graphs),
    }
    (folder / MANIFEST_NAME).write_bytes(Manifest(**(fields | changes)).to_json())


def zip_bundle(folder: Path, path: Path, prefix: str = "") -> Path:
    """Packs a bundle folder into a .zip, under `prefix`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def _signature(interface: Interface) -> str:
    def tensor(entry: TensorEntry) -> str:
        dtype = {"float32": "float", "int64": "int64"}[entry.dtype]
        return f"{dtype}[{', '.join(map(str, entry.shape))}] {entry.name}"

    inputs, outputs = (", ".join(map(tensor, part)) for part in interface)
    return f"({inputs}) => ({outputs})"


def _constants(
    role: Role, spec: ModelSpec, vocabulary: int, interface: Interface
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    random = np.random.default_rng(spec.roles.index(role))

    def weight(*shape: int) -> np.ndarray[Any, Any]:
        return random.standard_normal(shape).astype(np.float32)

    channels = spec.generator_channels
    side = interface.inputs[0].shape[-1] if role in spec.generator_roles[1:] else spec.base_resolution
    assert isinstance(side, int)
    joined = spec.text_features + spec.noise_features + spec.condition_features
    yield "embedding", weight(vocabulary, spec.text_features)
    yield "weight", weight(joined, channels * side * side) / 2
    yield "projection", weight(channels, spec.text_features)
    yield "to_colours", weight(3, channels, 1, 1)
    yield "positions", np.arange(MAX_WORDS)
    yield "last", np.array([-1])
    yield "words_axis", np.array([1])
    yield "feature_shape", np.array([-1, channels, side, side])
    yield "flat_shape", np.array([-1, channels, side * side])
    yield "attention_shape", np.array([-1, MAX_WORDS, side, side])
    yield "memory_shape", np.array([-1, channels, side, side])
    yield "lowest", np.array(-1e30, dtype=np.float32)
