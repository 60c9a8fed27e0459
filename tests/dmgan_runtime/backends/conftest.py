"""CUDA, TensorRT and ONNX Runtime on a GPU, replaced by their fakes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmgan_runtime.backends import ort_cuda
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
    monkeypatch.setattr(backend, "import_module", lambda name: modules[name])
    monkeypatch.setattr(backend, "find_spec", lambda name: modules[name])
    monkeypatch.setattr(backend, "import_runtime", lambda: fake)
    for module in (backend, ort_cuda):
        monkeypatch.setattr(module, "find_gpu", lambda index: GPU)
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
    monkeypatch.setattr(ort_cuda, "import_engine", lambda extra: fake)
    monkeypatch.setattr(ort_cuda, "find_gpu", lambda index: GPU)
    yield fake
    gc.collect()
    assert not fake.buffers
