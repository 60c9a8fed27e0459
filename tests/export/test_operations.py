"""Arithmetic is counted from the graphs themselves, and the rewritten paper-size network has two thirds of it."""

from pathlib import Path

import onnx
from onnx import parser

from dmgan_runtime.manifest import ModelSpec, Role
from dmgan_train.models import GeneratorNetwork, TextEncoder
from export.graphs import build_graphs
from export.onnx_file import quiet_exporter, write_onnx
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


def operations(generator: GeneratorNetwork, encoder: TextEncoder, path: Path, *roles: Role) -> int:
    total = 0
    for role, graph in build_graphs(encoder, generator, 25).items():
        if role in roles:
            write_onnx(graph, path)
            total += count_operations(path)
    return total


def test_the_paper_size_falls_from_66_to_44_gflop(tmp_path, monkeypatch) -> None:
    """At full size; the weights' values do not matter, so they are not made orthogonal, which takes long."""
    quiet_exporter()
    monkeypatch.setattr("dmgan_train.models.generator.initialise", lambda _: None)
    spec = ModelSpec()
    generator, encoder = GeneratorNetwork(spec).eval(), TextEncoder(9, spec).eval()
    written = operations(generator, encoder, tmp_path / "g.onnx", *spec.generator_roles)
    rewritten = operations(reparameterize(generator, "transposed"), encoder, tmp_path / "g.onnx", *spec.roles)
    assert 65.6e9 < written < 65.7e9
    assert 43e9 < rewritten < 44e9


def test_phases_do_as_little(tmp_path) -> None:
    """The second refinement stage at the paper's widths; its size in pixels is a quarter, which scales both alike."""
    quiet_exporter()
    spec = ModelSpec(base_resolution=16)
    generator, encoder = GeneratorNetwork(spec).eval(), TextEncoder(9, spec).eval()
    counts = [
        operations(network, encoder, tmp_path / "g.onnx", "generator_2")
        for network in (generator, reparameterize(generator, "phases"))
    ]
    assert counts[1] / counts[0] < 0.69
