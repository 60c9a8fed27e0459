"""The stand-ins have no name that the real CUDA and TensorRT lack, and the backends use no other than theirs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dmgan_runtime.backends.tensorrt import TensorRtRtxBackend, _new_log
from tests.bundles import build_graph
from tests.dmgan_runtime.backends.fakes import FakeCuda, fake_tensorrt
from tests.export.tensorrt.test_names import stubs  # noqa: F401 - a fixture

_LIST_NAMES = """
import json, tensorrt_bindings as real
classes = {name: dir(value) for name, value in vars(real).items() if isinstance(value, type)}
print(json.dumps(classes | {"": dir(real), "severities": dir(real.ILogger.Severity)}))
"""
_NOT_TENSORRTS = {
    "session",
    "nodes",
    "contexts",
    "shapes",
    "addresses",
    "memory",
    "memory_size",
    "busy",
    "execute",
    "log",
}


def names(value: object) -> set[str]:
    return {name for name in dir(value) if not name.startswith("_")} - _NOT_TENSORRTS


def used() -> dict[str, set[str]]:
    """What the stand-ins have, by the real class."""
    module = fake_tensorrt(FakeCuda())
    runtime = module.Runtime(SimpleNamespace(log=lambda severity, message: None))
    engine = runtime.deserialize_cuda_engine(build_graph("generator_0").SerializeToString())
    assert engine is not None
    return {
        "": names(module),
        "Runtime": names(runtime) | {"engine_host_code_allowed"},
        "ICudaEngine": names(engine),
        "IExecutionContext": names(engine.create_execution_context(None)),
        "TensorIOMode": names(module.TensorIOMode),
        "ExecutionContextAllocationStrategy": names(module.ExecutionContextAllocationStrategy),
    }


def test_cudas_names_are_real() -> None:
    runtime = import_module("cuda.bindings.runtime")
    fake = FakeCuda()
    assert {name for name in dir(fake) if name.startswith("cuda")} <= set(dir(runtime))
    for kinds in ("cudaMemcpyKind", "cudaStreamCaptureMode"):
        assert names(getattr(fake, kinds)) <= names(getattr(runtime, kinds))


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx: Linux on x86-64 only")
class TestTensorRtForRtx:
    @pytest.fixture
    def real(self) -> Any:
        return import_module("tensorrt_rtx")

    def test_its_names_are_real(self, real: Any) -> None:
        for owner, expected in used().items():
            assert expected <= set(dir(getattr(real, owner) if owner else real)), owner
        assert {"set_execution_context_allocation_strategy", "cuda_graph_strategy"} <= set(dir(real.IRuntimeConfig))
        assert names(fake_tensorrt(FakeCuda()).CudaGraphStrategy) <= set(dir(real.CudaGraphStrategy))

    def test_what_it_says_of_a_bad_plan_is_kept(self, real: Any) -> None:
        """The real runtime, which starts without a GPU, refuses a file that is no plan."""
        log = _new_log(real)
        assert real.Runtime(log).deserialize_cuda_engine(b"no plan at all" * 10) is None
        assert log.errors
        assert TensorRtRtxBackend.name == "tensorrt_rtx"


def test_tensorrts_names_are_real(stubs: Path) -> None:  # noqa: F811
    result = subprocess.run(
        [sys.executable, "-c", _LIST_NAMES],
        env=os.environ | {"LD_LIBRARY_PATH": str(stubs)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    real = {owner: set(having) for owner, having in json.loads(result.stdout).items()}
    for owner, expected in used().items():
        assert expected - {"CudaGraphStrategy"} - {"create_runtime_config"} <= real[owner], owner
    assert {"INTERNAL_ERROR", "ERROR"} <= real["severities"]
