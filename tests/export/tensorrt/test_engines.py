"""Engine folders, built by tensorrt-rtx on the CPU: whole, bound to their bundle by hashes, or not there."""

import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dmgan_runtime.backends.built_engines import BatchProfile, EngineManifest, parse_engine_manifest, was_built_here
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BackendError, BundleError, EngineError
from dmgan_runtime.manifest import MANIFEST_NAME, FileEntry, parse_manifest
from dmgan_train.staging import staging_folder
from export import engine_folder
from export.tensorrt import bindings as bindings_module
from export.tensorrt import engines
from export.tensorrt.bindings import open_bindings
from export.tensorrt.builder import PlanBuilder
from export.tensorrt.engines import BuildSettings, EngineFolder, build_engine, engine_precisions
from tests.bundles import ROLES, build_graph, write_manifest, zip_bundle
from tests.export.tensorrt.fakes import L4, fake_tensorrt
from tests.export.tensorrt.half import add_half

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this platform")


def build(
    bundle: Path, output: Path | None = None, precision="fp32", report=lambda _: None, **settings
) -> EngineFolder:
    chosen = BuildSettings(precision=precision, **settings)
    return build_engine(bundle, open_bindings("tensorrt_rtx"), chosen, output, report)


def read(folder: Path) -> EngineManifest:
    return parse_engine_manifest((folder / "engine.json").read_bytes(), "engine.json")


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_holds_a_plan_for_each_graph_and_its_hashes(small) -> None:
    before = everything(small)
    engine = build(small, targets=(86, 120), profile=BatchProfile(min=1, opt=2, max=8))
    name = f"sm86_120-tensorrt_rtx{open_bindings('tensorrt_rtx').version}-fp32-b1-2-8"
    assert engine.path == small / "engines" / name
    assert engine.is_new
    plans = [f"engines/{name}/{role}.plan" for role in ROLES]
    assert everything(small) == sorted([*before, "engines", f"engines/{name}", f"engines/{name}/engine.json", *plans])

    manifest = read(engine.path)
    assert manifest == engine.manifest
    assert (manifest.compute_capabilities, manifest.device, manifest.precision) == ((86, 120), None, "fp32")
    for plan in manifest.plans:
        assert FileEntry.of(engine.path, plan.file.path) == plan.file
        onnx = (small / "onnx" / f"{plan.role}.onnx").read_bytes()
        assert plan.onnx_sha256 == hashlib.sha256(onnx).hexdigest()
    with Bundle(small) as bundle:
        assert manifest.is_of(bundle.manifest)


def test_every_graph_of_an_exported_bundle_builds(bundle, tmp_path) -> None:
    engine = build(bundle, tmp_path)
    assert [plan.role for plan in engine.manifest.plans] == list(ROLES)
    assert [path.name for path in tmp_path.iterdir()] == [engine.manifest.folder]


def test_fp16_generators_go_with_an_fp32_text_encoder(small) -> None:
    engine = build(add_half(small), precision="fp16")
    assert [plan.precision for plan in engine.manifest.plans] == ["fp32", "fp16", "fp16", "fp16"]
    single = build(small, precision="fp32")
    assert engine.path != single.path
    for role in ROLES:
        half, full = (folder.manifest.plan(role).onnx_sha256 for folder in (engine, single))
        assert (half == full) == (role == "text_encoder")


def test_auto_is_fp16_if_the_bundle_has_it(small) -> None:
    def precisions() -> tuple[str, ...]:
        return engine_precisions(parse_manifest((small / MANIFEST_NAME).read_bytes(), ""))

    assert precisions() == ("fp32",)
    add_half(small)
    assert precisions() == ("fp16", "fp32")


def test_an_engine_that_is_there_is_kept(small) -> None:
    first = build(small)
    times = [path.stat().st_mtime_ns for path in sorted(first.path.iterdir())]
    second = build(small)
    assert (second.path, second.manifest, second.is_new) == (first.path, first.manifest, False)
    assert [path.stat().st_mtime_ns for path in sorted(first.path.iterdir())] == times


def test_one_that_came_from_elsewhere_is_kept_and_named(small, tmp_path, monkeypatch) -> None:
    first, said = build(small), list[str]()
    build(small, report=said.append)
    assert not [line for line in said if "auto" in line]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache of another user"))
    assert build(small, report=said.append).path == first.path
    assert "'auto' will not take it, because it is not known to be built by you on this machine; remove" in said[-1]
    shutil.rmtree(first.path)
    build(small)
    assert was_built_here((first.path / "engine.json").read_bytes())


@pytest.mark.parametrize("cache", ["/proc/nowhere", f"{__file__}/cache"])
def test_a_record_that_cannot_be_written_costs_no_engine(small, monkeypatch, cache) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    said: list[str] = []
    assert build(small, report=said.append).is_new
    assert "'auto' will not take it, because that it was built here cannot be recorded (" in said[-1]


def test_an_engine_of_another_export_is_never_kept(small) -> None:
    build(small)
    model = build_graph("generator_0")
    model.doc_string = "exported again"
    (small / "onnx/generator_0.onnx").write_bytes(model.SerializeToString())
    write_manifest(small)
    with pytest.raises(BundleError, match=r"stale: not built from the ONNX files .*; remove that folder"):
        build(small)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "generator_1.plan").unlink(), "generator_1.plan: missing"),
        (lambda folder: (folder / "generator_1.plan").write_bytes(b"x"), "generator_1.plan: missing, damaged"),
        (lambda folder: (folder / "engine.json").unlink(), "has no engine.json"),
        (lambda folder: (folder / "engine.json").write_bytes(b"{}"), "schema version missing"),
    ],
)
def test_a_damaged_engine_is_never_kept(small, damage, message) -> None:
    damage(build(small).path)
    with pytest.raises(BundleError, match=rf"{message}.* remove"):
        build(small)


def test_other_settings_under_the_same_name_are_an_error(small) -> None:
    engine = build(small)
    other = engine.manifest.__replace__(device="NVIDIA L40S")
    (engine.path / "engine.json").write_bytes(other.to_json())
    with pytest.raises(BundleError, match="other settings or for another device"):
        build(small)


def test_an_engine_without_all_plans_is_never_kept(small) -> None:
    engine = build(small)
    (engine.path / "engine.json").write_bytes(engine.manifest.__replace__(plans=()).to_json())
    with pytest.raises(BundleError, match="has not one plan for each graph; remove that folder"):
        build(small)


def test_a_replaced_onnx_is_refused_before_the_parser_sees_any(small, monkeypatch) -> None:
    file = small / "onnx/generator_2.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(PlanBuilder, "build", lambda *_: pytest.fail("the parser was called"))
    with pytest.raises(BundleError, match=r"generator_2.onnx: damaged or replaced: its SHA-256"):
        build(small)
    assert not (small / "engines").exists()


def test_a_failed_build_leaves_nothing(small) -> None:
    before = everything(small)
    with pytest.raises(EngineError, match="Turing"):
        build(small, targets=(75,))
    assert everything(small) == before


def test_a_failed_build_leaves_the_engines_beside_it(small) -> None:
    build(small)
    before = everything(small)
    with pytest.raises(EngineError, match="Turing"):
        build(small, targets=(75,))
    assert everything(small) == before


BUILD = """
import sys
from pathlib import Path
from export.tensorrt.bindings import open_bindings
from export.tensorrt.builder import PlanBuilder
from export.tensorrt.engines import BuildSettings, build_engine
{before}
build_engine(Path(sys.argv[1]), open_bindings("tensorrt_rtx"), BuildSettings("fp32"), None, print)
"""
DIE_AT_THE_THIRD = """
import os, signal
build, built = PlanBuilder.build, []
def dying(self, graph, where):
    built.append(where)
    if len(built) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return build(self, graph, where)
PlanBuilder.build = dying
"""
SMALL_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
"""


def build_elsewhere(bundle: Path, before: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BUILD.format(before=before), str(bundle)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_killed_build_leaves_no_engine_and_the_next_one_clears_up(small) -> None:
    result = build_elsewhere(small, DIE_AT_THE_THIRD)
    assert result.returncode == -signal.SIGKILL
    assert [path for path in (small / "engines").iterdir() if not path.name.startswith(".")] == []
    engine = build(small)
    assert list((small / "engines").iterdir()) == [engine.path]


def test_a_write_that_fails_half_way_leaves_nothing(small) -> None:
    before = everything(small)
    result = build_elsewhere(small, SMALL_FILES)
    assert result.returncode == 1
    assert "File too large" in result.stderr
    assert everything(small) == before


def test_two_builds_of_one_engine_do_not_meet(small, monkeypatch) -> None:
    original = PlanBuilder.build
    refused = []

    def build_twice(self, graph, where):
        if not refused:
            refused.append(build_elsewhere(small, ""))
        return original(self, graph, where)

    monkeypatch.setattr(PlanBuilder, "build", build_twice)
    engine = build(small)
    assert "another process is making it; wait for that" in refused[0].stderr
    assert list((small / "engines").iterdir()) == [engine.path]


def test_an_engine_that_came_before_the_lock_was_had_is_kept(small, monkeypatch) -> None:
    built = []

    @contextmanager
    def late(destination: Path) -> Iterator[Path]:
        monkeypatch.setattr(engine_folder, "staging_folder", staging_folder)
        built.append(build(small))
        with staging_folder(destination) as folder:
            yield folder

    monkeypatch.setattr(engine_folder, "staging_folder", late)
    engine = build(small)
    assert (engine.path, engine.is_new) == (built[0].path, False)
    assert list((small / "engines").iterdir()) == [engine.path]


def test_a_zip_needs_an_output(small, tmp_path) -> None:
    archive = zip_bundle(small, tmp_path / "small.zip")
    with pytest.raises(BundleError, match=r"this is a .zip; unpack it, or pass --output"):
        build(archive)
    engine = build(archive, tmp_path / "engines")
    assert engine.path.parent == tmp_path / "engines"
    assert len(list(engine.path.iterdir())) == 5


def test_a_precision_that_the_bundle_lacks_is_an_error(small) -> None:
    with pytest.raises(BundleError, match=r"no generators in fp16, but in fp32; .* again with --fp16"):
        build(small, precision="fp16")


def test_a_bundle_without_a_text_encoder_is_an_error(small) -> None:
    manifest = parse_manifest((small / MANIFEST_NAME).read_bytes(), "")
    write_manifest(small, graphs=tuple(graph for graph in manifest.graphs if graph.role != "text_encoder"))
    with pytest.raises(BundleError, match="no text encoder in fp32"):
        build(small)


def test_a_folder_that_is_no_bundle_is_an_error(tmp_path) -> None:
    with pytest.raises(BundleError, match="json: missing"):
        build(tmp_path)
    with pytest.raises(BundleError, match="no such bundle"):
        build(tmp_path / "nothing")


def test_tensorrt_without_a_gpu_is_an_error(small, monkeypatch) -> None:
    def no_gpu(_: int) -> None:
        raise BackendError("there is no GPU here")

    monkeypatch.setattr(bindings_module, "find_gpu", no_gpu)
    with pytest.raises(
        BackendError,
        match=r"no GPU here\. tensorrt builds .* --engine tensorrt_rtx",
    ):
        build_engine(small, fake_tensorrt("11.4.0.106"), BuildSettings("fp32"), None, lambda _: None)
    assert not (small / "engines").exists()


class FakeBuilder:
    """Builds nothing, and keeps a timing cache as TensorRT does."""

    def __init__(self, bindings, engine, timing_cache) -> None:
        self.engine, self.cache = engine, timing_cache

    def build(self, graph: bytes, where: str) -> memoryview:
        if self.cache is not None:
            self.cache += b"."
        return memoryview(b"plan")

    def timing_cache(self) -> bytes:
        return self.cache


def test_a_timing_cache_is_read_and_written(small, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bindings_module, "find_gpu", lambda _: L4)
    monkeypatch.setattr(engines, "PlanBuilder", FakeBuilder)
    cache = tmp_path / "kernels.cache"
    for largest, expected in ((4, b"...."), (8, b"........")):
        profile = BatchProfile(min=1, opt=4, max=largest)
        settings = BuildSettings("fp32", profile, timing_cache=cache)
        engine = build_engine(small, fake_tensorrt("11.4.0.106"), settings, None, lambda _: None)
        assert cache.read_bytes() == expected
        assert engine.manifest.device == "NVIDIA L4"
    assert {path.name for path in tmp_path.iterdir()} == {"kernels.cache", "small"}
