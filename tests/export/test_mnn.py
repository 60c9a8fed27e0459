"""`dmgan-export build-engine --engine mnn`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec import structs
from onnx import numpy_helper

from dmgan_runtime import BackendError, BundleError, EngineError, Generator
from dmgan_runtime.backends import mnn as backend
from dmgan_runtime.backends.built_engines import EngineManifest, parse_engine_manifest
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.manifest import FileEntry
from export import mnn
from export.commands import main
from export.engine_folder import EngineFolder
from tests.bundles import SPEC, build_bundle, build_graph, zip_bundle


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return build_bundle(tmp_path / "small")


def build(bundle: Path, output: Path | None = None) -> EngineFolder:
    return mnn.build_mnn_engine(bundle, output, lambda _: None)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["build-engine", *map(str, arguments)], prog_name="dmgan-export")


def read(folder: Path) -> EngineManifest:
    return parse_engine_manifest((folder / "engine.json").read_bytes(), "engine.json")


def test_it_builds_compares_and_says_so(small: Path) -> None:
    result = run(small, "--engine", "mnn")
    assert result.exit_code == 0, result.output
    (folder,) = (small / "engines").iterdir()
    manifest = read(folder)
    assert result.stdout == f"{folder}: written; it serves those who name it: --backend mnn\n"
    assert folder.name == f"cpu-mnn{manifest.version}-fp32" == manifest.folder
    lines = result.stderr.splitlines()
    assert lines[0] == f"mnn {manifest.version}, fp32"
    assert [line.partition(":")[0] for line in lines[-2:]] == ["generator_1", "generator_2"]
    assert all("dB from onnxruntime's" in line for line in lines[-2:])
    again = run(small, "--engine", "mnn")
    assert ": is there already, and every hash is right; it serves those who name it" in again.stdout
    assert again.stderr.splitlines() == lines[:1]


def test_what_is_written_is_bound_to_the_bundle(small: Path) -> None:
    engine = build(small)
    manifest = read(engine.path)
    assert manifest == engine.manifest
    assert (manifest.engine, manifest.precision, manifest.profile, manifest.device) == ("mnn", "fp32", None, None)
    assert [plan.role for plan in manifest.plans] == ["generator_1", "generator_2"]
    with Bundle(small) as bundle:
        assert manifest.is_of(bundle.manifest)
    for plan in manifest.plans:
        assert FileEntry.of(engine.path, plan.file.path) == plan.file


def test_a_zip_needs_an_output(small: Path, tmp_path: Path) -> None:
    archive = zip_bundle(small, tmp_path / "small.zip")
    with pytest.raises(BundleError, match=r"is a \.zip; unpack it, or pass --output"):
        build(archive)
    assert build(archive, tmp_path / "engines").path.parent == tmp_path / "engines"


def test_a_graph_that_was_replaced_never_reaches_the_converter(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (small / "onnx/generator_2.onnx").write_bytes((small / "onnx/generator_1.onnx").read_bytes())
    monkeypatch.setattr(mnn.MnnBuilder, "build", lambda *_: pytest.fail("the converter was called"))
    with pytest.raises(BundleError, match=r"generator_2\.onnx: damaged or replaced"):
        build(small)
    assert not (small / "engines").exists()


def test_what_mnn_cannot_convert_is_named_with_what_it_says() -> None:
    with pytest.raises(EngineError, match=r"^junk: mnn cannot convert it \(.*not onnx model.*\); upgrade mnn"):
        mnn.MnnBuilder().build(b"junk", "junk")


def test_an_engine_that_generates_other_images_is_never_kept(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = mnn.MnnBuilder.build
    model = build_graph("generator_1")
    colours = next(each for each in model.graph.initializer if each.name == "to_colours")
    colours.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(colours) * 1.01, "to_colours"))
    broken = model.SerializeToString()

    def build_another(self: mnn.MnnBuilder, content: bytes, where: str) -> bytes:
        return convert(self, broken if "generator_1" in where else content, where)

    monkeypatch.setattr(mnn.MnnBuilder, "build", build_another)
    with pytest.raises(EngineError, match=r"generates other images in generator_1 than onnxruntime does \(.* dB"):
        build(small)
    assert not (small / "engines").exists()


def test_switches_that_mnn_would_ignore_are_refused(small: Path) -> None:
    result = run(small, "--engine", "mnn", "--max-batch", 4, "--target", "sm89", "--precision", "int8")
    assert result.exit_code == 2
    assert "--max-batch, --precision, --target: not with mnn; its engine is fp32 and takes every batch" in result.stderr
    assert run(small, "--engine", "mnn", "--precision", "fp32").exit_code == 0


def test_auto_takes_it_where_there_is_no_tensorrt(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    assert run(small).exit_code == 0
    assert [path.name[:7] for path in (small / "engines").iterdir()] == ["cpu-mnn"]
    refused = run(small, "--max-batch", 4)
    assert "--max-batch: not with mnn, which auto took because there is no TensorRT here; its engine" in refused.stderr

    def gone(name: str) -> str:
        raise backend.PackageNotFoundError(name)

    monkeypatch.setattr(backend, "version", gone)
    result = run(small)
    assert result.exit_code == 2
    assert "no TensorRT here" in result.stderr
    assert 'pip install "dmgan[mnn]"' in result.stderr
    with pytest.raises(BackendError, match="mnn is not installed"):
        build(small)


def test_the_converter_reports_nothing_to_anyone(small: Path) -> None:
    """MNN's own command does, through these modules."""
    build(small)
    assert not [name for name in sys.modules if name.startswith(("MNN.tools", "aliyun"))]


def test_what_was_built_serves(small: Path) -> None:
    build(small)
    with Generator.open(small, backend="mnn", threads=1) as generator:
        assert generator.generate("a red heart", seed=1)[0].image.size == (32, 32)


@pytest.mark.parametrize("stages", [2, 5])
def test_it_converts_every_refinement_stage(stages: int, tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path / "b", spec=structs.replace(SPEC, stages=stages))
    assert [plan.role for plan in build(bundle).manifest.plans] == [f"generator_{n}" for n in range(1, stages)]


def test_a_model_without_refinement_stages_has_nothing_to_convert(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path / "b", spec=structs.replace(SPEC, stages=1))
    result = run(bundle, "--engine", "mnn")
    assert result.exit_code == 2
    assert "its model has one stage, and mnn computes refinement stages alone" in result.stderr
    assert not (bundle / "engines").exists()
