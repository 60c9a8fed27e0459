"""fp16 graphs: typed, close to fp32, and free of overflow where fp32 has none."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dmgan_runtime.spec import ModelSpec
from dmgan_train.models import Generator, TextEncoder
from export.graphs import Graph, build_graphs
from export.onnx_file import quiet_exporter, write_onnx
from export.parity import psnr, random_captions, reference_case
from export.precision import HalfGraph
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
WORDS = 6


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    quiet_exporter()
    torch.manual_seed(0)
    generator = reparameterize(Generator(SPEC).eval(), "transposed")
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


@pytest.mark.parametrize("scale", [1e3, 1e5, 1e30])
def test_large_features_stay_numbers(graphs, scale) -> None:
    graph = copy.deepcopy(graphs["generator_1"])
    half = HalfGraph(graph).eval()
    torch.manual_seed(0)
    features = scale * torch.randn(2, SPEC.generator_channels, 8, 8)
    words, lengths = torch.randn(2, SPEC.text_features, WORDS), torch.tensor([WORDS, 2])
    with torch.inference_mode():
        outputs = dict(zip([entry.name for entry in half.outputs], half(features, words, lengths), strict=True))
    for name in ("attention", "writing_gate", "response_gate"):
        assert outputs[name].isfinite().all(), name
    np.testing.assert_allclose(outputs["attention"].sum(dim=1), 1, atol=1e-2)


def test_logits_beyond_the_range_of_half_choose_the_same_word(graphs) -> None:
    graph = graphs["generator_1"]
    half = HalfGraph(graph).eval()
    torch.manual_seed(0)
    features = 3e3 * torch.randn(2, SPEC.generator_channels, 8, 8)
    features -= features.mean(dim=(2, 3), keepdim=True)  # or the writing gate closes and all words are one
    words, lengths = 50 * torch.randn(2, SPEC.text_features, WORDS), torch.tensor([WORDS, 3])
    with torch.inference_mode():
        expected, actual = graph(features, words, lengths)[2], half(features, words, lengths)[2]
        keys, _, _ = graph.stage.memory.write(features, words)
        logits = torch.bmm(keys.transpose(1, 2), features.flatten(2))
    assert logits.abs().max() > 65504
    sure = expected.max(dim=1).values > 0.99
    assert sure.float().mean() > 0.5
    assert torch.equal(actual.argmax(dim=1)[sure], expected.argmax(dim=1)[sure])
