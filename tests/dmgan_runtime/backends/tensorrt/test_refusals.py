"""What TensorRT's backend cannot do, and says: over the fakes of `fakes`."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dmgan_runtime import BackendError, EngineError, Generator
from dmgan_runtime.backends import gpus
from dmgan_runtime.backends.built_engines import ENGINE_MANIFEST_NAME, record_built_here
from dmgan_runtime.backends.tensorrt import backend as tensorrt
from dmgan_runtime.backends.tensorrt.cuda import import_runtime
from dmgan_runtime.bundle import Bundle
from tests.bundles import build_graph
from tests.dmgan_runtime.backends.fake_cuda import FakeCuda
from tests.dmgan_runtime.backends.fakes import GPU, add_engine
from tests.dmgan_runtime.backends.precisions import add_precision


class TestWhatCannotBeHad:
    def test_no_engine_names_the_command(self, cuda: FakeCuda, own_bundle: Path) -> None:
        message = (
            r"backend 'tensorrt' cannot be had: .* has no engine for tensorrt 11.4.0.106 on sm_89 \(none at all\);"
            r" build one with: dmgan-export build-engine .*/bundle --engine tensorrt$"
        )
        with pytest.raises(BackendError, match=message):
            Generator.open(own_bundle, backend="tensorrt")

    def test_a_precision_that_no_engine_is_built_in_names_no_command(self, cuda: FakeCuda, own_bundle: Path) -> None:
        with pytest.raises(BackendError, match=r"does not compute in precision 'bf16'; pass precision='auto'$"):
            Generator.open(own_bundle, backend="tensorrt", precision="bf16")

    def test_a_zip_is_to_be_unpacked(self, cuda: FakeCuda, own_bundle: Path) -> None:
        archive = shutil.make_archive(str(own_bundle), "zip", own_bundle)
        message = r"unpack it first, and build one with: dmgan-export build-engine .*/bundle --engine tensorrt$"
        with pytest.raises(BackendError, match=message):
            Generator.open(archive, backend="tensorrt")

    @pytest.mark.usefixtures("without_bf16")
    def test_auto_goes_on_and_says_why(self, cuda: FakeCuda, own_bundle: Path) -> None:
        with Generator.open(own_bundle) as generator:
            active = generator.active
        assert (active.backend, active.device) == ("onnxruntime", "cpu")
        assert str(active.considered[0]).startswith("tensorrt on cuda:0: ")
        assert [each.state for each in active.considered] == ["missing"] * 3 + ["chosen", "untried"]

    @pytest.mark.parametrize("version_compatible", [True, False])
    def test_auto_takes_no_engine_that_was_not_built_here(
        self, cuda: FakeCuda, own_bundle: Path, monkeypatch: pytest.MonkeyPatch, version_compatible: bool
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(own_bundle.parent / "cache"))
        manifest = add_engine(own_bundle, version_compatible=version_compatible, built_here=False)
        with Generator.open(own_bundle) as generator:
            assert generator.active.backend == "onnxruntime"
            verdict = generator.active.considered[0].verdict
            assert f"engines/{manifest.folder} is not known to be built by you on this machine" in verdict
        with Generator.open(own_bundle, backend="tensorrt") as generator:
            assert generator.active.backend == "tensorrt"
        record_built_here(manifest.to_json())
        with Generator.open(own_bundle) as generator:
            assert generator.active.backend == "tensorrt"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"version": "11.3.0.1"}, "is built by tensorrt 11.3.0.1, and 11.4.0.106 is at hand"),
            ({"compute_capabilities": (90,)}, "is built for sm_90, and this GPU is sm_89"),
            ({"engine": "tensorrt_rtx"}, "is built by tensorrt_rtx, and tensorrt is at hand"),
        ],
    )
    def test_an_engine_for_elsewhere_is_named(
        self, cuda: FakeCuda, own_bundle: Path, changes: dict[str, Any], message: str
    ) -> None:
        add_engine(own_bundle, **changes)
        with pytest.raises(BackendError, match=f"{message}.*build one with: dmgan-export build-engine"):
            Generator.open(own_bundle, backend="tensorrt")

    @pytest.mark.parametrize("capability", [75, 90, 100])
    def test_a_gpu_that_rtx_is_not_for_is_named(
        self, cuda: FakeCuda, own_bundle: Path, monkeypatch: pytest.MonkeyPatch, capability: int
    ) -> None:
        add_engine(own_bundle, engine="tensorrt_rtx", device=None, compute_capabilities=(80, 89))
        monkeypatch.setattr(tensorrt, "find_gpu", lambda index: replace(GPU, compute_capability=capability))
        message = (
            rf"tensorrt_rtx 11.4.0.106 does not run on A fake, which is sm_{capability}, but on sm_80, sm_89, sm_120;"
            " use backend='tensorrt'"
        )
        with pytest.raises(BackendError, match=message):
            Generator.open(own_bundle, backend="tensorrt_rtx")
        with Generator.open(own_bundle, device="cpu") as generator:
            assert generator.active.backend == "onnxruntime"

    def test_options_are_refused(self, cuda: FakeCuda, engine_bundle: Path) -> None:
        with pytest.raises(BackendError, match="tensorrt takes no engine_options"):
            Generator.open(engine_bundle, backend="tensorrt", engine_options={"streams": 3})

    def test_another_precision_names_its_switch(self, cuda: FakeCuda, engine_bundle: Path) -> None:
        add_precision(engine_bundle, "fp16")
        with pytest.raises(BackendError, match=r"built in fp32, and fp16 is asked for.*--precision fp16"):
            Generator.open(engine_bundle, backend="tensorrt", precision="fp16")

    def test_a_stale_engine_is_refused_by_name(self, cuda: FakeCuda, engine_bundle: Path) -> None:
        (manifest,) = (engine_bundle / "engines").glob(f"*/{ENGINE_MANIFEST_NAME}")
        text = manifest.read_text()
        with Bundle(engine_bundle) as bundle:
            graph = bundle.manifest.graph("generator_1", "fp32")
        assert graph is not None
        manifest.write_text(text.replace(f'"onnx_sha256": "{graph.file.sha256}"', f'"onnx_sha256": "{"0" * 64}"'))
        with pytest.raises(BackendError, match=r"is stale, remove it: .* dmgan-export build-engine"):
            Generator.open(engine_bundle, backend="tensorrt")

    def test_a_changed_plan_never_reaches_the_engine(self, cuda: FakeCuda, engine_bundle: Path) -> None:
        (plan,) = (engine_bundle / "engines").glob("*/generator_2.plan")
        content = bytearray(plan.read_bytes())
        content[-1] ^= 1
        plan.write_bytes(content)
        with pytest.raises(
            EngineError, match=r"generator_2.plan: damaged or replaced.*, or remove engines/sm89-.*build"
        ):
            Generator.open(engine_bundle, backend="tensorrt")
        with Generator.open(engine_bundle) as generator:
            assert generator.active.backend == "onnxruntime"
            assert generator.active.considered[0].state == "broken"

    def test_a_plan_that_does_not_load_names_what_tensorrt_said(
        self, cuda: FakeCuda, own_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Path, "read_bytes", lambda path, read=Path.read_bytes: read(path)[: _cut(path)])
        add_engine(own_bundle)
        with pytest.raises(EngineError, match=r"cannot load it: magic tag does not match; remove engines/.*build it"):
            Generator.open(own_bundle, backend="tensorrt")

    def test_a_plan_of_another_graph_is_refused(
        self, cuda: FakeCuda, own_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = build_graph("generator_1").SerializeToString()
        read = Path.read_bytes
        monkeypatch.setattr(Path, "read_bytes", lambda path: other if "generator_2" in path.name else read(path))
        add_engine(own_bundle)
        with pytest.raises(EngineError, match=r"generator_2.plan, inputs: found previous_features .*4, 8.*, or remove"):
            Generator.open(own_bundle, backend="tensorrt")

    @pytest.mark.parametrize(("backend", "extra"), [("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt-rtx")])
    def test_a_missing_package_names_its_extra(
        self, own_bundle: Path, monkeypatch: pytest.MonkeyPatch, backend: str, extra: str
    ) -> None:
        monkeypatch.setattr(tensorrt, "find_spec", lambda name: None)
        with pytest.raises(BackendError, match=rf'{backend} is not installed; .* pip install "dmgan\[{extra}\]"'):
            Generator.open(own_bundle, backend=backend)

    @pytest.mark.parametrize(("backend", "extra"), [("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt-rtx")])
    def test_missing_bindings_of_cuda_name_the_engines_extra(
        self, cuda: FakeCuda, own_bundle: Path, monkeypatch: pytest.MonkeyPatch, backend: str, extra: str
    ) -> None:
        for name in ("cuda", "cuda.bindings"):
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setattr(tensorrt, "import_runtime", import_runtime)
        with pytest.raises(BackendError, match=rf'cuda-bindings cannot be imported .* "dmgan\[{extra}\]"'):
            Generator.open(own_bundle, backend=backend)

    def test_a_package_without_its_libraries_names_its_extra(
        self, own_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tensorrt, "find_spec", lambda name: SimpleNamespace())
        monkeypatch.setattr(tensorrt, "find_gpu", lambda index: GPU)
        monkeypatch.setattr(tensorrt, "import_runtime", FakeCuda)
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        with pytest.raises(BackendError, match=r'tensorrt cannot be imported .* pip install "dmgan\[tensorrt\]"'):
            Generator.open(own_bundle, backend="tensorrt")

    def test_a_missing_driver_is_named(self, own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tensorrt, "find_spec", lambda name: SimpleNamespace())
        monkeypatch.setattr(gpus, "_LIBRARY", "libno-such-driver.so")
        gpus.find_gpus.cache_clear()
        with pytest.raises(BackendError, match="there is no NVIDIA driver"):
            Generator.open(own_bundle, backend="tensorrt")


def _cut(path: Path) -> int | None:
    return 50 if path.name == "generator_2.onnx" else None
