"""What serves must run where nothing but numpy, Pillow, click, msgspec and an engine is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dmgan_runtime

ROOT = Path(dmgan_runtime.__file__).parents[1]

GENERATE_WITHOUT_THE_REST = """
import sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnxscript", "yaml", "tqdm", "dmgan_train", "export"}:
            raise ImportError(f"{name} is not for serving")

sys.meta_path.insert(0, Refuse())
import dmgan_runtime
import dmgan_runtime.cli.generate
for name in dmgan_runtime.__all__:
    getattr(dmgan_runtime, name)
with dmgan_runtime.Generator.open(sys.argv[1], threads=1) as generator:
    print(generator.generate("a red heart", seed=1)[0].image.size)
"""


def python(program: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT).stdout


def test_it_serves_without_torch_and_onnx(bundle: Path) -> None:
    assert python(GENERATE_WITHOUT_THE_REST, str(bundle)) == "(32, 32)\n"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import dmgan_runtime", "numpy PIL msgspec click"),
        ("import dmgan_runtime.cli.common", "numpy PIL"),
        ("from dmgan_runtime import Generator", "click"),
        ("import dmgan_runtime.cli.doctor", "torch onnx"),
    ],
)
def test_an_import_brings_no_more_than_it_needs(statement: str, absent: str) -> None:
    engines = ["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda"]
    program = f"{statement}; import sys; print(set({absent.split() + engines}) & sys.modules.keys())"
    assert python(program) == "set()\n"


def test_an_import_takes_no_time() -> None:
    program = "import time; t = time.perf_counter(); import dmgan_runtime; print(time.perf_counter() - t)"
    assert min(float(python(program)) for _ in range(3)) < 0.2


def test_a_cpu_is_served_without_the_packages_of_the_other_engines(bundle: Path) -> None:
    program = (
        "import sys, dmgan_runtime; g = dmgan_runtime.Generator.open(sys.argv[1], device='cpu', threads=1);"
        " print(g.active.backend, {'openvino', 'tensorrt', 'tensorrt_rtx', 'cuda'} & sys.modules.keys())"
    )
    assert python(program, str(bundle)) == "onnxruntime set()\n"


def test_the_public_names_are_listed_and_others_are_errors() -> None:
    assert set(dmgan_runtime.__all__) <= set(dir(dmgan_runtime))
    assert isinstance(dmgan_runtime.__version__, str)
    with pytest.raises(AttributeError, match="no attribute 'NoSuchName'"):
        _ = dmgan_runtime.NoSuchName
