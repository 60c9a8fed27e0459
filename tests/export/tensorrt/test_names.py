"""Every TensorRT name that our code uses exists in the real bindings of TensorRT 11.4, which build nothing here."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
# What the bindings' shared object wants to find in them when it is loaded.
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared objects with TensorRT's names and nothing in them."""
    compiler = shutil.which("cc")
    if compiler is None or find_spec("tensorrt_bindings") is None:
        pytest.skip("needs a C compiler, and tensorrt_cu13_bindings, which is built for Linux on x86-64 only")
    folder = tmp_path_factory.mktemp("stubs")
    source = folder / "stub.c"
    source.write_text("".join(f"void {symbol}(void) {{}}\n" for symbol in SYMBOLS))
    for library in LIBRARIES:
        name = f"{library}.so.11"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", str(source), "-o", str(folder / name)]
        subprocess.run(command, check=True)
    return folder


def run_over_real_names(stubs: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (*paths, ROOT)))
    return subprocess.run(
        [sys.executable, str(Path(__file__).with_name("real_names.py"))],
        env=os.environ | {"LD_LIBRARY_PATH": str(stubs), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_our_names_are_tensorrts(stubs) -> None:
    result = run_over_real_names(stubs)
    assert result.returncode == 0, result.stderr
    assert result.stdout == version("tensorrt_cu13_bindings")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("builder.create_optimization_profile", "builder.create_optimization_profiles"),
        ("config.add_optimization_profile", "config.add_profile"),
        ("config.set_timing_cache", "config.use_timing_cache"),
    ],
)
def test_the_check_finds_a_name_that_is_wrong(stubs, tmp_path, right, wrong) -> None:
    shutil.copytree(ROOT / "export", tmp_path / "export")
    code = tmp_path / "export" / "tensorrt" / "builder.py"
    assert right in code.read_text()
    code.write_text(code.read_text().replace(right, wrong))
    result = run_over_real_names(stubs, tmp_path)
    assert result.returncode == 1
    assert f"has no attribute '{wrong.split('.')[1]}'" in result.stderr
