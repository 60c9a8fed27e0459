"""fp16 graphs: typed, close to fp32, and numbers whatever goes in."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dmgan_runtime.quality import psnr
from dmgan_train.models import GeneratorNetwork, TextEncoder
from export import precision
from export.graphs import Graph, build_graphs
from export.onnx_file import quiet_exporter, write_onnx
from export.parity import random_captions, reference_case
from export.precision import HalfGraph, RoundedProducts
from export.reparameterize import reparameterize
from tests.export.conftest import SPEC

WORDS = 6


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    quiet_exporter()
    torch.manual_seed(0)
    generator = reparameterize(GeneratorNetwork(SPEC).eval(), "transposed")
    return dict(build_graphs(TextEncoder(9, SPEC).eval(), generator, WORDS))


@pytest.fixture(scope="module")
def files(graphs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    roles = ("generator_0", "generator_1")
    for role in roles:
        write_onnx(HalfGraph(graphs[role]).eval(), folder / f"{role}.onnx")
    return {role: folder / f"{role}.onnx" for role in roles}


def run(path, feeds):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def feeds_of(graph, case):
    return {entry.name: case[f"{graph.role}.{entry.name}"].numpy() for entry in graph.inputs}


@pytest.mark.parametrize("role", ["generator_0", "generator_1"])
def test_weights_are_half_and_edges_are_not(files, role) -> None:
    model = onnx.load(files[role])
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    assert weights
    assert all(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in weights)
    edges = [*model.graph.input, *model.graph.output]
    assert {value.type.tensor_type.elem_type for value in edges} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


@pytest.mark.parametrize("role", ["generator_0", "generator_1"])
def test_every_output_is_close(graphs, files, role) -> None:
    (case,) = [reference_case(graphs, random_captions(9, WORDS)[1], seed=1)]
    for name, value in run(files[role], feeds_of(graphs[role], case)).items():
        np.testing.assert_allclose(value, case[f"{role}.{name}"], atol=1e-2, err_msg=name)
        assert name != "image" or psnr(value, case[f"{role}.image"].numpy()) > 50


def test_what_runs_half_at_every_step_is_close(graphs) -> None:
    """ONNX Runtime keeps fp32 between fp16 operators on a CPU; PyTorch rounds after each, as a GPU does."""
    case = reference_case(graphs, random_captions(9, WORDS)[1], seed=1)
    half = HalfGraph(graphs["generator_1"]).eval()
    with torch.inference_mode():
        outputs = half(*(torch.from_numpy(value) for value in feeds_of(half, case).values()))
    for entry, value in zip(half.outputs, outputs, strict=True):
        np.testing.assert_allclose(value, case[f"generator_1.{entry.name}"], atol=1e-2, err_msg=entry.name)


@pytest.mark.parametrize("scale", [1e3, 6e4, 1e5, 1e30])
@pytest.mark.parametrize("role", ["generator_0", "generator_1", "generator_2"])
def test_large_features_stay_numbers(graphs, role, scale) -> None:
    """In fp16 at every step, whichever input is large, or all of them."""
    half = HalfGraph(graphs[role]).eval()
    torch.manual_seed(0)
    inputs = [
        torch.tensor([WORDS, 2])
        if entry.dtype == "int64"
        else torch.randn([2 if axis == "batch" else axis for axis in entry.shape])
        for entry in half.inputs
    ]
    scaled = [value if value.dtype == torch.int64 else scale * value for value in inputs]
    for arguments in ([scaled[0], *inputs[1:]], [inputs[0], scaled[1], inputs[2]], scaled):
        with torch.inference_mode():
            outputs = dict(zip([entry.name for entry in half.outputs], half(*arguments), strict=True))
        for name, value in outputs.items():
            assert value.isfinite().all(), name
        if "attention" in outputs:
            np.testing.assert_allclose(outputs["attention"].sum(dim=1), 1, atol=1e-2)


def test_a_limit_is_what_no_order_of_adding_up_can_pass() -> None:
    torch.manual_seed(0)
    for layer, shape in (
        (torch.nn.Conv2d(3, 4, 3, padding=1), (1, 3, 6, 6)),
        (torch.nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1), (1, 3, 6, 6)),
        (torch.nn.Linear(5, 7), (1, 5)),
    ):
        limit = precision._limit(layer)
        values = torch.full(shape, limit)
        worst = copy.deepcopy(layer)
        for parameter in worst.parameters():  # all terms of one sign
            parameter.data.abs_()
        with torch.inference_mode():
            largest = float(worst(values).max())
        assert 0.9 * precision.LARGEST < largest <= 1.001 * precision.LARGEST


def test_products_are_rounded_as_pytorch_rounds_them(graphs) -> None:
    case = reference_case(graphs, random_captions(9, WORDS)[1], seed=1)
    half = HalfGraph(graphs["generator_1"]).eval()
    arguments = [torch.from_numpy(value) for value in feeds_of(half, case).values()]
    with torch.no_grad():
        native = half(*arguments)
        with RoundedProducts():
            ours = half(*arguments)
    for entry, value, expected in zip(half.outputs, ours, native, strict=True):
        assert psnr(value.numpy(), expected.numpy()) > 60, entry.name
        assert torch.equal(value, value.half().float()) or entry.name not in ("image", "features"), entry.name


def test_logits_beyond_the_range_of_half_choose_the_same_word(graphs) -> None:
    graph = graphs["generator_1"]
    half = HalfGraph(graph).eval()
    torch.manual_seed(0)
    features = 300 * torch.randn(2, SPEC.generator_channels, 8, 8)
    features -= features.mean(dim=(2, 3), keepdim=True)  # or the writing gate closes and all words are one
    words, lengths = 500 * torch.randn(2, SPEC.text_features, WORDS), torch.tensor([WORDS, 3])
    with torch.inference_mode():
        expected, actual = graph(features, words, lengths)[2], half(features, words, lengths)[2]
        keys, _, _ = graph.stage.memory.write(features, words)
        logits = torch.bmm(keys.transpose(1, 2), features.flatten(2))
    assert logits.abs().max() > 65504
    sure = expected.max(dim=1).values > 0.99
    assert sure.float().mean() > 0.5
    assert torch.equal(actual.argmax(dim=1)[sure], expected.argmax(dim=1)[sure])
