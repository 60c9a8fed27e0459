"""`dmgan-export web`: the folder it writes, and the bundle inside."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from dmgan_runtime import Generator
from dmgan_runtime.bundle import Bundle, packaged_bundle
from dmgan_runtime.manifest import MANIFEST_NAME
from dmgan_runtime.quality import decibels
from dmgan_runtime.self_test import run_self_test
from export.commands import main
from export.half_weights import STORED_IN_HALF
from tests.bundles import build_bundle, write_manifest, zip_bundle
from tests.export.browser.packages import build_package


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_package(tmp_path_factory.mktemp("npm") / "onnxruntime-web")


def export(bundle: Path, output: Path, runtime: Path, *arguments: str) -> Any:
    command = ["web", str(bundle), "-o", str(output), "--onnxruntime-web", str(runtime), *arguments]
    return CliRunner().invoke(main, command, prog_name="dmgan-export")


def images(bundle: Path, caption: str, seed: int) -> dict[int, np.ndarray[Any, Any]]:
    with Generator.open(bundle, backend="onnxruntime", device="cpu") as generator:
        (made,) = generator.generate(caption, seed=seed)
        return {side: np.asarray(picture).astype(int) for side, picture in made.stages.items()}


@pytest.fixture(scope="module")
def site(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model's."""
    path = tmp_path_factory.mktemp("sites") / "site"
    result = export(packaged_bundle(), path, runtime)
    assert result.exit_code == 0, result.output
    with Bundle(packaged_bundle()) as packaged:
        near = decibels(packaged.manifest.image_psnr_db["fp32"])
    assert f"bundle: 9.9 MB, weights in fp16, {near} from fp32 in the worst image" in result.stdout
    assert f"python -m http.server --directory {path}" in result.stdout
    return path


class TestTheBundle:
    def test_its_weights_become_half_as_large(self, runtime: Path, tmp_path: Path) -> None:
        given, made = build_bundle(tmp_path / "bundle"), tmp_path / "site/bundle"
        result = export(given, tmp_path / "site", runtime)
        assert re.search(r"weights in fp16, \d\d\.\d dB from fp32 in the worst image", result.stdout), result.output
        with Bundle(made) as wire, Bundle(given) as before:
            for entry in wire.manifest.every_file:
                wire.read(entry)
            halved, whole = (
                sum(weight.ByteSize() for weight in onnx.load(path / "onnx/generator_0.onnx").graph.initializer)
                for path in (made, given)
            )
            assert halved < 0.51 * whole
            assert (wire.manifest.parity, wire.manifest.image_psnr_db) == ((), {})
            assert wire.manifest.provenance[STORED_IN_HALF] >= 50
            assert wire.manifest.self_test == before.manifest.self_test
        ours, theirs = (images(each, "a heart", 7) for each in (made, given))
        for side, levels in theirs.items():
            assert np.abs(ours[side] - levels).mean() < 0.5

    def test_weights_that_are_so_already_stay(self, site: Path) -> None:
        with Bundle(site / "bundle") as wire, Bundle(packaged_bundle()) as packaged:
            assert wire.manifest.graphs == packaged.manifest.graphs
            assert wire.manifest.parity == packaged.manifest.parity
            assert wire.manifest.provenance == packaged.manifest.provenance
            assert [entry.path for entry in wire.manifest.files] == ["MODEL_CARD.md"]
        with Generator.open(site / "bundle", backend="onnxruntime", device="cpu") as generator:
            assert run_self_test(generator).difference in (0, 1, 2)

    def test_a_browsers_bundle_may_be_exported_again(self, runtime: Path, tmp_path: Path) -> None:
        first, again = (
            export(bundle, tmp_path / name, runtime).stdout
            for bundle, name in ((build_bundle(tmp_path / "bundle"), "first"), (tmp_path / "first/bundle", "again"))
        )
        near = re.search(r"weights in fp16, \d\d\.\d dB from fp32", first)
        assert near
        assert near[0] in again

    def test_weights_that_show_in_pictures_stay_in_fp32(self, runtime: Path, tmp_path: Path) -> None:
        bundle = build_bundle(tmp_path / "bundle")
        file = bundle / "onnx/generator_0.onnx"
        model = onnx.load(file)
        (weight,) = (each for each in model.graph.initializer if each.name == "weight")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 100, "weight"))
        onnx.save(model, file)
        write_manifest(bundle)
        result = export(bundle, tmp_path / "site", runtime)
        assert result.exit_code == 0, result.output
        assert "and 50 are needed: the weights stay in fp32" in result.stderr
        assert "weights in fp32" in result.stdout
        for name in ("onnx/generator_0.onnx", "onnx/generator_1.onnx", MANIFEST_NAME):
            assert (tmp_path / "site/bundle" / name).read_bytes() == (bundle / name).read_bytes()


class TestTheSite:
    def test_it_has_the_servers_page_and_our_own_generator(self, site: Path) -> None:
        page = Path(packaged_bundle()).parents[1] / "server" / "static"
        for file in page.iterdir():
            copied = site / ("index.html" if file.name == "index.html" else f"static/{file.name}")
            assert (copied.read_bytes() == file.read_bytes()) == (file.name != "generator.js")
        names = re.findall(r"^export (?:async )?(?:class|function) (\w+)", (page / "generator.js").read_text(), re.M)
        ours = (site / "static/generator.js").read_text()
        assert {"PageGenerator", "RefusedError"} <= set(names)
        assert all(f"export class {name} " in ours for name in ("PageGenerator", "RefusedError"))

    def test_the_worker_knows_every_file(self, site: Path) -> None:
        facts = json.loads(
            re.search(r"^const SITE = (.*?);", (site / "service_worker.js").read_text(), re.M)[1]
        )  # fmt: skip
        there = {file.relative_to(site).as_posix() for file in site.rglob("*") if file.is_file()}
        assert {*facts["page"], *facts["large"]} == there - {"index.html", "service_worker.js"} | {"./"}
        assert {name for name in facts["large"] if name.startswith("onnxruntime/")} == {
            "onnxruntime/ort.wasm.bundle.min.mjs", "onnxruntime/ort-wasm-simd-threaded.wasm",
        }  # fmt: skip
        assert list(json.loads((site / "site.json").read_bytes())["runtime"]) == ["wasm"]

    def test_another_bundle_is_another_version(self, site: Path, runtime: Path, tmp_path: Path) -> None:
        versions = set()
        for name, words in (("one", ("<end>", "a")), ("other", ("<end>", "b"))):
            bundle = zip_bundle(build_bundle(tmp_path / name, words=words), tmp_path / f"{name}.zip")
            for output in (name, f"{name} again"):
                assert export(bundle, tmp_path / "sites" / output, runtime, "--webgpu").exit_code == 0
                facts = json.loads((tmp_path / "sites" / output / "site.json").read_bytes())
                assert list(facts["runtime"]) == ["wasm", "webgpu"]
                versions.add(facts["version"])
        assert len(versions) == 2


class TestRefusals:
    def test_a_folder_that_is_there_is_left_alone(self, runtime: Path, tmp_path: Path) -> None:
        (tmp_path / "site").mkdir()
        result = export(packaged_bundle(), tmp_path / "site", runtime)
        assert result.exit_code == 2
        assert "exists already; remove it or choose another name" in result.stderr
        assert not list((tmp_path / "site").iterdir())

    def test_a_damaged_bundle_leaves_nothing_behind(self, runtime: Path, tmp_path: Path) -> None:
        bundle = Path(shutil.copytree(packaged_bundle(), tmp_path / "bundle"))
        (bundle / "onnx/generator_1.onnx").write_bytes(b"")
        result = export(bundle, tmp_path / "sites" / "site", runtime)
        assert result.exit_code == 2
        assert "generator_1.onnx: damaged or replaced" in result.stderr
        assert not (tmp_path / "sites").exists()

    def test_a_bundle_without_fp32(self, runtime: Path, tmp_path: Path) -> None:
        bundle = build_bundle(tmp_path / "bundle")
        manifest = json.loads((bundle / MANIFEST_NAME).read_bytes())
        manifest["graphs"][1]["precision"] = "fp16"
        (bundle / MANIFEST_NAME).write_text(json.dumps(manifest))
        result = export(bundle, tmp_path / "site", runtime)
        assert result.exit_code == 2
        assert "has no generator_0 graph in fp32; export the bundle again" in result.stderr

    def test_without_the_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        command = ["web", str(packaged_bundle()), "-o", "site"]
        result = CliRunner().invoke(main, command, prog_name="dmgan-export")
        assert result.exit_code == 2
        assert "npm install onnxruntime-web" in result.stderr
