"""Arithmetic is counted from the graphs themselves, and the rewritten paper-size network has two thirds of it."""

from pathlib import Path

import onnx
import torch
from onnx import parser
from torch.utils.flop_counter import FlopCounterMode

from dmgan_runtime.manifest import ModelSpec
from dmgan_train.models import GeneratorNetwork, TextEncoder
from export import graph_files
from export.graphs import build_graphs
from export.operations import count_operations
from export.reparameterize import reparameterize


def test_every_kind_of_arithmetic_is_counted(tmp_path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[batch, 3, 8, 8] x, float[batch, 5] y) => (float[batch, 4, 8, 8] a, float[batch, 6, 16, 16] b,
      float[batch, 7] c)
    <float[4, 3, 3, 3] k, float[3, 6, 4, 4] t, float[7, 5] m>
    {
        a = Conv<pads = [1, 1, 1, 1]>(x, k)
        b = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1]>(x, t)
        c = Gemm<transB = 1>(y, m)
    }"""
    onnx.save(parser.parse_model(text), tmp_path / "g.onnx")
    convolution, transposed, product = 8 * 8 * 4 * 3 * 9, 8 * 8 * 3 * 6 * 16, 5 * 7
    assert count_operations(tmp_path / "g.onnx") == 2 * (convolution + transposed + product)


def operations(generator: GeneratorNetwork, encoder: TextEncoder, path: Path) -> int:
    total = 0
    for graph in build_graphs(encoder, generator, 25).values():
        graph_files.write_onnx(graph, path)
        total += count_operations(path)
    return total


def test_the_paper_size_falls_from_66_to_44_gflop(tmp_path, monkeypatch) -> None:
    """At full size; the weights' values do not matter, so they are not made orthogonal, which takes long."""
    monkeypatch.setattr("dmgan_train.models.generator.initialise", lambda _: None)
    spec = ModelSpec()
    generator, encoder = GeneratorNetwork(spec).eval(), TextEncoder(9, spec).eval()
    text = torch.zeros(1, spec.text_features), torch.zeros(1, spec.text_features, 25), torch.ones(1, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        generator(*text, torch.zeros(1, spec.noise_features), torch.zeros(1, spec.condition_features))
    assert 65.6e9 < counter.get_total_flops() < 65.7e9
    rewritten = operations(reparameterize(generator, "phases"), encoder, tmp_path / "g.onnx")
    assert 43e9 < rewritten < 44e9


def test_both_forms_do_as_little(tmp_path) -> None:
    spec = ModelSpec(base_resolution=8, stages=1, generator_channels=8)
    generator, encoder = GeneratorNetwork(spec).eval(), TextEncoder(9, spec).eval()
    phases, transposed = (
        operations(reparameterize(generator, form), encoder, tmp_path / "g.onnx") for form in ("phases", "transposed")
    )
    assert phases == transposed
