"""Weights stored in fp16: of one graph, and of a bundle as a user exports it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper

from dmgan_runtime import Generator
from dmgan_runtime.errors import ExportError
from dmgan_runtime.graphs import graph_interface
from dmgan_runtime.manifest import parse_manifest
from dmgan_train.run_folder import RunFolder
from export import cli
from export.browser.wire import write_wire_bundle
from export.bundle import write_bundle
from export.half_weights import STORED_IN_HALF, store_in_half
from tests.bundles import MAX_WORDS, SPEC, build_graph
from tests.export.models import small_model

ROLES = ("text_encoder", "generator_0", "generator_1", "generator_2")


def test_a_graph_keeps_its_interface_and_only_large_weights_are_halved() -> None:
    content = store_in_half(build_graph("generator_0").SerializeToString())
    model = onnx.load_from_string(content)
    interface = graph_interface("generator_0", SPEC, MAX_WORDS)
    for values, entries in zip((model.graph.input, model.graph.output), interface, strict=True):
        assert [value.name for value in values] == [entry.name for entry in entries]
    kinds = {weight.name: weight.data_type for weight in model.graph.initializer}
    assert kinds["weight.fp16"] == TensorProto.FLOAT16
    assert kinds["to_colours"] == TensorProto.FLOAT


def test_a_weight_that_fp16_cannot_hold_stays() -> None:
    model = build_graph("generator_0")
    (weight,) = (each for each in model.graph.initializer if each.name == "weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1e6, "weight"))
    assert onnx.load_from_string(store_in_half(model.SerializeToString())) == model


@pytest.fixture(scope="module")
def bundles(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One run's with weights in fp32, and with weights in fp16 beside int8 graphs."""
    folder = tmp_path_factory.mktemp("half")
    copy = RunFolder(shutil.copytree(run.root, folder / "run"))
    copy.captions_file.write_text("a red square\na green square on white\n" * 9)
    for name, options in (("exact", []), ("half", ["--half-weights", "--int8"])):
        result = CliRunner().invoke(cli.main, [str(copy.root), "-o", str(folder / name), *options])
        assert result.exit_code == 0, result.output
    return folder / "exact", folder / "half"


def test_a_smaller_bundle_makes_nearly_the_same_images(bundles: tuple[Path, Path]) -> None:
    exact, half = bundles
    sizes = [sum((bundle / f"onnx/{name}.onnx").stat().st_size for name in ROLES) for bundle in bundles]
    assert sizes[1] < 0.85 * sizes[0]  # of so small a model much is no weight
    for backend in ("onnxruntime", "openvino"):
        images = []
        for bundle in (exact, half):
            with Generator.open(bundle, backend=backend, device="cpu", precision="fp32") as generator:
                images.append(np.asarray(generator.generate("a red square", seed=1)[0].image).astype(int))
        assert 0 < np.abs(images[0] - images[1]).mean() < 1


def test_what_it_says_is_of_the_rounded_weights(bundles: tuple[Path, Path]) -> None:
    manifest = parse_manifest((bundles[1] / "manifest.json").read_bytes(), "manifest.json")
    images = [entry for entry in manifest.parity if (entry.output, entry.precision) == ("image", "fp32")]
    assert [(entry.tolerance, entry.required_psnr_db) for entry in images] == [(None, 50.0)] * len(images)
    worst = min(entry.psnr_db for entry in images if entry.psnr_db is not None)
    assert manifest.provenance[STORED_IN_HALF] == round(worst, 1) < 120
    assert 50 <= manifest.image_psnr_db["fp32"] < 120
    assert f"| {STORED_IN_HALF} |" in (bundles[1] / "MODEL_CARD.md").read_text()


def test_int8_is_made_from_what_is_exact(bundles: tuple[Path, Path]) -> None:
    biases = [
        tensor
        for role in ROLES[1:]
        for tensor in onnx.load(bundles[1] / f"onnx/{role}.int8.onnx").graph.initializer
        if tensor.data_type == TensorProto.FLOAT16
    ]
    assert biases == []


def test_a_page_for_browsers_takes_them_as_they_are(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    told: list[str] = []
    wire = write_wire_bundle(bundles[1], tmp_path / "wire", told.append)
    given, made = (
        parse_manifest((path / "manifest.json").read_bytes(), "manifest.json")
        for path in (bundles[1], tmp_path / "wire")
    )
    assert made.graphs == tuple(graph for graph in given.graphs if graph.precision == "fp32")
    assert wire.psnr == given.image_psnr_db["fp32"] < given.provenance[STORED_IN_HALF]  # of all stages, and of one
    assert told == []


def test_weights_that_round_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.graph_files.REQUIRED_PSNR", 200.0)
    with pytest.raises(ExportError, match=r"200 dB are needed; .* Export without --half-weights"):
        write_bundle(small_model(1), tmp_path / "b", lambda _: None, half_weights=True)
    assert list(tmp_path.iterdir()) == []
