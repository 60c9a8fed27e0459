import sys
from types import SimpleNamespace

import pytest
from cuda.bindings import runtime

from dmgan_runtime.errors import BackendError
from export.tensorrt.gpu import Gpu, find_gpu

SUCCESS = runtime.cudaError_t.cudaSuccess


def cuda(monkeypatch: pytest.MonkeyPatch, count, properties=None) -> None:
    monkeypatch.setattr(runtime, "cudaGetDeviceCount", lambda: count)
    monkeypatch.setattr(runtime, "cudaGetDeviceProperties", lambda _: properties)


def test_the_first_gpu_is_described(monkeypatch) -> None:
    described = SimpleNamespace(name=b"NVIDIA L4\0\0", major=8, minor=9)
    cuda(monkeypatch, (SUCCESS, 1), (SUCCESS, described))
    assert find_gpu() == Gpu("NVIDIA L4", 89)


def test_the_real_properties_have_these_fields() -> None:
    fields = dir(runtime.cudaDeviceProp())
    assert {"name", "major", "minor"} <= set(fields)


def test_no_driver_is_said_in_cudas_words(monkeypatch) -> None:
    cuda(monkeypatch, (runtime.cudaError_t.cudaErrorInsufficientDriver, None))
    with pytest.raises(BackendError, match=r"CUDA driver version is insufficient.*--engine tensorrt_rtx"):
        find_gpu()


def test_no_gpu_is_said(monkeypatch) -> None:
    cuda(monkeypatch, (SUCCESS, 0))
    with pytest.raises(BackendError, match=r"no GPU here; tensorrt builds an engine on the GPU that will run it"):
        find_gpu()


def test_a_gpu_that_cannot_be_described_is_an_error(monkeypatch) -> None:
    cuda(monkeypatch, (SUCCESS, 1), (runtime.cudaError_t.cudaErrorInvalidDevice, None))
    with pytest.raises(BackendError, match=r"invalid device ordinal.*nvidia-smi"):
        find_gpu()


def test_missing_cuda_bindings_name_the_pip_line(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError, match=r'pip install "dmgan\[tensorrt\]"'):
        find_gpu()
