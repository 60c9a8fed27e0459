"""Arithmetic is counted from the graphs themselves, and the rewritten paper-size network has two thirds of it."""

import onnx
import pytest
import torch
from onnx import parser

from dmgan_runtime.spec import ModelSpec
from dmgan_train.models import Generator, TextEncoder
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


@pytest.mark.parametrize("form", ["transposed", "phases"])
def test_a_rewritten_stage_does_two_thirds_of_the_arithmetic(tmp_path, form) -> None:
    """The second refinement stage at the paper's widths; its size in pixels is a quarter, which scales both alike."""
    quiet_exporter()
    torch.manual_seed(0)
    spec = ModelSpec(base_resolution=16)
    generator, encoder = Generator(spec).eval(), TextEncoder(9, spec).eval()
    operations = []
    for network in (generator, reparameterize(generator, form)):
        write_onnx(build_graphs(encoder, network, 25)["generator_2"], tmp_path / "g.onnx")
        operations.append(count_operations(tmp_path / "g.onnx"))
    assert operations[1] / operations[0] < 0.69
