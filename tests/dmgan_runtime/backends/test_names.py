"""The stand-ins have no name that the real libraries lack, and the backends use no other than theirs.

Their own names begin with an underscore.
"""

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

import onnxruntime
import pytest

from dmgan_runtime.backends.tensorrt.api import new_log
from tests.bundles import build_graph
from tests.dmgan_runtime.backends import fake_onnxruntime
from tests.dmgan_runtime.backends.fake_cuda import FakeCuda
from tests.dmgan_runtime.backends.fakes import fake_tensorrt
from tests.export.tensorrt.test_names import stubs  # noqa: F401 - a fixture

_LIST_NAMES = """
import json, tensorrt_bindings as real
classes = {name: dir(value) for name, value in vars(real).items() if isinstance(value, type)}
print(json.dumps(classes | {"": dir(real), "severities": dir(real.ILogger.Severity)}))
"""
_ONLY_OF_RTX = {
    "ComputeCapability",
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "create_runtime_config",
}


def names(value: object) -> set[str]:
    return {name for name in dir(value) if not name.startswith("_")}


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


@pytest.mark.parametrize("name", ["InferenceSession", "IOBinding", "OrtValue", "RunOptions"])
def test_onnxruntimes_names_are_real(name: str) -> None:
    assert names(getattr(fake_onnxruntime, name)) <= names(getattr(onnxruntime, name))


def test_onnxruntimes_buffers_are_made_as_here() -> None:
    made = onnxruntime.OrtValue.ortvalue_from_shape_and_type([2, 3], "float32", "cpu", 0)
    assert made.shape() == [2, 3]


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx: Linux on x86-64 only")
class TestTensorRtForRtx:
    @pytest.fixture
    def real(self) -> Any:
        return import_module("tensorrt_rtx")

    def test_its_names_are_real(self, real: Any) -> None:
        for owner, expected in used().items():
            assert expected <= set(dir(getattr(real, owner) if owner else real)), owner
        module = fake_tensorrt(FakeCuda())
        engine = module.Runtime(None).deserialize_cuda_engine(build_graph("generator_0").SerializeToString())
        assert names(engine.create_runtime_config()) <= names(real.IRuntimeConfig)
        for enumeration in ("CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy"):
            assert names(getattr(module, enumeration)) <= names(getattr(real, enumeration))
        assert set(module.ComputeCapability.__members__) <= set(real.ComputeCapability.__members__)
        assert int(real.ComputeCapability.SM89) == module.ComputeCapability.__members__["SM89"]

    def test_what_it_says_of_a_bad_plan_is_kept(self, real: Any) -> None:
        """The real runtime, which starts without a GPU, refuses a file that is no plan."""
        log = new_log(real)
        assert real.Runtime(log).deserialize_cuda_engine(b"no plan at all" * 10) is None
        assert log.errors


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
        assert expected - _ONLY_OF_RTX <= real[owner], owner
    assert {"INTERNAL_ERROR", "ERROR"} <= real["severities"]
