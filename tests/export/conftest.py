"""Small stages to quantize."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from dmgan_runtime.manifest import ModelSpec
from dmgan_train.models import GeneratorNetwork, TextEncoder
from export import graph_files
from export.graphs import Graph, build_graphs
from export.parity import Case, random_captions, reference_case, reference_graphs
from export.quantize import Int8Stage, write_int8
from export.reparameterize import reparameterize
from tests.exporting import exported_once

SPEC = ModelSpec(
    base_resolution=8,
    generator_channels=8,
    text_features=8,
    embedding_features=6,
    noise_features=5,
    condition_features=4,
    memory_features=6,
    residual_blocks=1,
)


@pytest.fixture(scope="session", autouse=True)
def _exported_once(exports: Path) -> Iterator[None]:
    with exported_once(exports):
        yield


class Stages(NamedTuple):
    """All generators, their fp32 files with up blocks as convolutions, and what they should compute."""

    graphs: list[Graph]
    sources: list[Path]
    cases: list[Case]


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    torch.manual_seed(0)
    generator, encoder = GeneratorNetwork(SPEC).eval(), TextEncoder(9, SPEC).eval()
    graphs = list(build_graphs(encoder, reparameterize(generator, "phases"), 6).values())[1:]
    folder = tmp_path_factory.mktemp("int8")
    sources = [folder / f"{graph.role}.onnx" for graph in graphs]
    for graph, source in zip(graphs, sources, strict=True):
        graph_files.write_onnx(graph, source)
    written = reference_graphs(encoder, generator, 6)
    cases = [reference_case(written, words, seed) for seed, words in enumerate(random_captions(9, 6))]
    return Stages(graphs, sources, cases)


@pytest.fixture(scope="session")
def int8_file(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`generator_1` in int8; do not change it."""
    path = tmp_path_factory.mktemp("int8") / "generator_1.onnx"
    stage = Int8Stage(stages.graphs[1], stages.sources[1], path)
    write_int8([stage], stages.cases[2:], stages.cases[:1], stages.cases[:1])
    return path
