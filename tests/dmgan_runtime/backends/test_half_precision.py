from __future__ import annotations

import shutil
from pathlib import Path

from dmgan_runtime import Generator
from dmgan_runtime.bundle import packaged_bundle
from dmgan_runtime.self_test import run_self_test
from tests.dmgan_runtime.backends.half_precision import add_half_precision


def test_the_packaged_model_makes_the_same_images_in_half_precision(tmp_path: Path) -> None:
    """On the CPU here, so that the bundle that `test_gpu` uses is a good one."""
    bundle = add_half_precision(Path(shutil.copytree(packaged_bundle(), tmp_path / "bundle")))
    with Generator.open(bundle, backend="onnxruntime", device="cpu", precision="fp16") as generator:
        assert generator.active.precision == "fp16"
        assert run_self_test(generator).difference is not None
