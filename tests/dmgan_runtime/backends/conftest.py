"""CUDA, TensorRT and ONNX Runtime on a GPU, replaced by their fakes."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmgan_runtime.backends import ort_cuda
from dmgan_runtime.backends.registry import Engine
from dmgan_runtime.backends.tensorrt import backend
from tests.dmgan_runtime.backends.fake_cuda import FakeCuda
from tests.dmgan_runtime.backends.fake_onnxruntime import FakeOnnxRuntime
from tests.dmgan_runtime.backends.fakes import GPU, add_engine, fake_tensorrt


@pytest.fixture(scope="session", autouse=True)
def _frozen() -> Iterator[None]:
    """Takes what was imported out of the collector's sight: it looks through it all in every test here otherwise."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """The fakes, in place; afterwards nothing of the GPU's is left."""
    fake = FakeCuda()
    modules = {name: fake_tensorrt(fake) for name in ("tensorrt", "tensorrt_rtx")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(backend, "find_spec", lambda name: modules[name])
    monkeypatch.setattr(backend, "import_runtime", lambda: fake)
    for user in (backend, ort_cuda):
        monkeypatch.setattr(user, "find_gpu", lambda index: GPU)
    yield fake
    gc.collect()
    assert [left for left in (fake.device, fake.pinned, fake.graphs, fake.streams, fake.captures) if left] == []


@pytest.fixture
def engine_bundle(own_bundle: Path) -> Path:
    add_engine(own_bundle)
    return own_bundle


@pytest.fixture
def fake_ort(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOnnxRuntime]:
    """ONNX Runtime with a CUDA provider; afterwards nothing of the GPU's is left."""
    fake = FakeOnnxRuntime()
    real = Engine.import_package
    monkeypatch.setattr(Engine, "import_package", lambda row, name: fake if row.device == "cuda" else real(row, name))
    monkeypatch.setattr(ort_cuda, "find_gpu", lambda index: GPU)
    yield fake
    gc.collect()
    assert not fake.buffers
