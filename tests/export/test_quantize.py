"""int8 graphs: calibrated on captions, compared on others, and then all stages one after the other."""

import numpy as np
import onnx
import onnxruntime
import pytest

from dmgan_runtime.quality import lowest_psnr
from export import quantize
from export.quantize import Int8Stage, write_int8


def image(path, role, case, features=None):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {entry.name: case[f"{role}.{entry.name}"].numpy() for entry in session.get_inputs()}
    if features is not None:
        feeds["previous_features"] = features
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, feeds), strict=True))
    return outputs["image"], outputs.get("features")


def quantized(path) -> int:
    """Convolutions whose weights are integers."""
    model = onnx.load(path)
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    weights = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    return sum(made_by.get(name) == "DequantizeLinear" for name in weights)


@pytest.fixture
def files(stages, tmp_path):
    """Where the int8 files go."""
    return [tmp_path / source.name for source in stages.sources]


def quantize_all(stages, files):
    cases = stages.cases
    made = [Int8Stage(*each) for each in zip(stages.graphs, stages.sources, files, strict=True)]
    return write_int8(made, cases[2:], cases[:2], cases)


def worst_end_to_end(stages, files) -> float:
    qualities = []
    for case in stages.cases:
        features = None
        for graph, path in zip(stages.graphs, files, strict=True):
            picture, features = image(path, graph.role, case, features)
            qualities.append(lowest_psnr(picture, case[f"{graph.role}.image"].numpy()))
    return min(qualities)


def test_the_images_are_close_and_the_convolutions_are_integers(stages, files) -> None:
    layers = quantize_all(stages, files)
    for graph, path in zip(stages.graphs, files, strict=True):
        found = layers[graph.role]
        assert quantized(path) == len(found.in_int8)
        names = {node.name for node in onnx.load(path).graph.node if node.op_type == "Conv"}
        assert names == {*found.in_int8, *found.in_fp32}
    in_int8, in_fp32 = (sum(map(len, column)) for column in zip(*layers.values(), strict=True))
    assert in_int8 > in_fp32
    assert worst_end_to_end(stages, files) >= quantize.END_TO_END_PSNR
    assert sorted(path.name for path in files[0].parent.iterdir()) == sorted(path.name for path in files)


def test_layers_that_spoil_a_stage_stay_in_fp32(stages, files, monkeypatch) -> None:
    monkeypatch.setattr(quantize, "END_TO_END_PSNR", 0.0)
    monkeypatch.setattr(quantize, "STAGE_PSNR", 0.0)
    assert not any(layers.in_fp32 for layers in quantize_all(stages, files).values())
    reached = [
        lowest_psnr(
            np.concatenate([image(path, graph.role, case)[0] for case in stages.cases[:2]]),
            np.concatenate([case[f"{graph.role}.image"].numpy() for case in stages.cases[:2]]),
        )
        for graph, path in zip(stages.graphs, files, strict=True)
    ]
    monkeypatch.setattr(quantize, "STAGE_PSNR", min(reached) + 1)
    layers = quantize_all(stages, files)
    worst = stages.graphs[reached.index(min(reached))].role
    assert layers[worst].in_fp32
    assert layers[worst].in_int8


def test_stages_that_are_good_alone_are_compared_one_after_the_other(stages, files, monkeypatch) -> None:
    monkeypatch.setattr(quantize, "STAGE_PSNR", 0.0)
    monkeypatch.setattr(quantize, "END_TO_END_PSNR", 0.0)
    quantize_all(stages, files)
    before = worst_end_to_end(stages, files)
    monkeypatch.setattr(quantize, "END_TO_END_PSNR", before + 2)
    layers = quantize_all(stages, files)
    assert any(found.in_fp32 for found in layers.values())
    assert any(found.in_int8 for found in layers.values())
    assert worst_end_to_end(stages, files) >= before + 2


def test_what_no_layer_can_reach_is_an_fp32_stage(stages, files, monkeypatch) -> None:
    monkeypatch.setattr(quantize, "STAGE_PSNR", 1000.0)
    layers = quantize_all(stages, files)
    assert not any(found.in_int8 for found in layers.values())
    for source, path in zip(stages.sources, files, strict=True):
        assert path.read_bytes() == source.read_bytes()
