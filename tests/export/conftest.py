"""A small stage to quantize."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from dmgan_runtime.spec import ModelSpec
from dmgan_train.models import Generator, TextEncoder
from export.graphs import Graph, build_graphs
from export.onnx_file import quiet_exporter, write_onnx
from export.parity import Case, random_captions, reference_case
from export.reparameterize import reparameterize

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


class Stage(NamedTuple):
    """`generator_1`, its fp32 file with up blocks as convolutions, and what it should compute."""

    graph: Graph
    source: Path
    cases: list[Case]


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    quiet_exporter()
    torch.manual_seed(0)
    generator, encoder = Generator(SPEC).eval(), TextEncoder(9, SPEC).eval()
    graph = build_graphs(encoder, reparameterize(generator, "phases"), 6)["generator_1"]
    source = tmp_path_factory.mktemp("int8") / "fp32.onnx"
    write_onnx(graph, source)
    written = build_graphs(encoder, generator, 6)
    return Stage(
        graph, source, [reference_case(written, words, seed) for seed, words in enumerate(random_captions(9, 6))]
    )
