"""TensorRT's fakes in place of CUDA and TensorRT."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmgan_runtime.backends import tensorrt
from tests.dmgan_runtime.backends.fakes import GPU, FakeCuda, add_engine, fake_tensorrt


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """The fakes, in place; afterwards nothing of the GPU's is left."""
    fake = FakeCuda()
    modules = {name: fake_tensorrt(fake) for name in ("tensorrt", "tensorrt_rtx")}
    monkeypatch.setattr(tensorrt, "import_module", lambda name: modules[name])
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: modules[name])
    monkeypatch.setattr(tensorrt, "import_runtime", lambda: fake)
    for module in (tensorrt, importlib.import_module("dmgan_runtime.backends.onnxruntime_cuda")):
        monkeypatch.setattr(module, "find_gpu", lambda index: GPU)
    yield fake
    gc.collect()
    assert [left for left in (fake.device, fake.pinned, fake.graphs, fake.streams, fake.captures) if left] == []


@pytest.fixture
def engine_bundle(own_bundle: Path) -> Path:
    add_engine(own_bundle)
    return own_bundle
