"""A TensorRT that only says which version it is, and a CUDA that has a GPU."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from dmgan_runtime.backends.gpus import Gpu
from export.tensorrt.bindings import Bindings


def fake_tensorrt(version: str) -> Bindings:
    return Bindings("tensorrt", SimpleNamespace(__version__=version))


def install(monkeypatch: pytest.MonkeyPatch, name: str, version: str | None) -> None:
    """Makes `import name` give a module of that version, or fail if it is None."""
    module = None
    if version is not None:
        module = ModuleType(name)
        module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)


L4 = Gpu(0, "NVIDIA L4", 89, "13.0")
