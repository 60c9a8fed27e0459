"""What has to be installed is counted with all that it needs, once."""

import importlib.metadata

from packaging.requirements import Requirement

from benchmarks.contender import RuntimeContender
from scripts.sizes import closure, installed_bytes, model_bytes, packages
from tests.benchmarks.fakes import MODEL, Known
from tests.bundles import build_bundle


def test_a_package_brings_what_it_needs() -> None:
    assert {"onnx", "numpy", "protobuf"} <= closure(["onnx"])
    assert "pytest" not in closure(["onnx"])


def test_extras_bring_more() -> None:
    assert "numpy" not in closure(["hypothesis"])
    assert "numpy" in closure(["hypothesis[numpy]"])


def test_what_is_not_installed_weighs_nothing() -> None:
    assert closure(["no-such-package-here"]) == set()
    assert installed_bytes(["no-such-package-here"]) == 0


def test_a_package_weighs_its_files_and_is_counted_once() -> None:
    alone = installed_bytes(["click"])
    assert 100_000 < alone < 10_000_000
    assert installed_bytes(["click", "click"]) == alone


def test_a_model_weighs_what_its_contender_reads(tmp_path) -> None:
    bundle = build_bundle(tmp_path / "toy", aliases={"❤": "red heart"})
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"w" * 1000)
    model = MODEL.__replace__(bundle=str(bundle), weights=str(weights))
    words = sum((bundle / name).stat().st_size for name in ("vocab.json", "aliases.json"))
    graphs = sum(graph.stat().st_size for graph in (bundle / "onnx").iterdir())
    assert model_bytes(model, Known()) == words + 1000
    assert model_bytes(model, RuntimeContender("fp32", "cpu", 1, "onnxruntime")) == words + graphs


def test_serving_needs_what_the_registry_lists() -> None:
    assert {"onnxruntime", "onnxruntime-gpu[cuda,cudnn]", "numpy"} <= set(packages("onnxruntime"))
    assert "torch" in packages("torch")
    own = {Requirement(each) for each in importlib.metadata.requires("dmgan") or []}
    assert {each.name for each in own if each.marker is None} <= set(packages("torch"))
