"""`dmgan-export` is a group, and without a command it exports as it always did."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from export.commands import main
from tests.bundles import build_bundle
from tests.export.browser.packages import build_package


def invoke(*arguments: str):
    return CliRunner().invoke(main, arguments, prog_name="dmgan-export")


def test_help_shows_the_commands() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert "`dmgan-export RUN -o BUNDLE` is short for" in result.output
    for line in (
        "bundle        Export a trained RUN",
        "build-engine  Build engines of TensorRT or MNN",
        "triton        Write a model repository of a BUNDLE",
        "vectors       Write test vectors of a BUNDLE",
    ):
        assert line in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs/none", "-o", "b"),
        ("-o", "b", "runs/none"),
        ("--name", "x", "runs/none", "-o", "b"),
        ("bundle", "runs/none", "-o", "b"),
    ],
)
def test_without_a_command_it_exports(arguments) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Usage: dmgan-export bundle [OPTIONS] [RUN]" in result.output
    assert "'runs/none' does not exist" in result.output


def test_the_version_is_the_groups() -> None:
    assert invoke("--version").output.startswith("dmgan-export, version ")


def test_a_packaged_model_goes_by_its_name(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("dmgan_runtime.bundle._PACKAGED", tmp_path / "packaged")
    build_bundle(tmp_path / "packaged" / "small")
    package = build_package(tmp_path / "onnxruntime-web")
    for arguments in (("triton",), ("vectors",), ("web", "--onnxruntime-web", str(package))):
        output = tmp_path / arguments[0]
        result = invoke(*arguments, "small", "-o", str(output))
        assert result.exit_code == 0, result.output
        assert output.exists()


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages!r}:
            raise ModuleNotFoundError(name + " is blocked", name=name)
sys.meta_path.insert(0, Block())
from export.__main__ import main
sys.argv = ["dmgan-export", *{arguments!r}]
main()
"""
TRAINING = ("torch", "onnx", "onnxruntime", "onnxscript", "rich", "yaml", "tqdm")


def run_without(packages: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    code = BLOCKED.format(packages=packages, arguments=arguments)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_help_needs_no_pytorch() -> None:
    result = run_without(TRAINING, "--help")
    assert (result.returncode, result.stderr) == (0, "")


def test_an_engine_is_built_without_pytorch_and_onnx(tmp_path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this platform")
    bundle = build_bundle(tmp_path / "small")
    result = run_without(TRAINING, "build-engine", str(bundle), "--engine", "tensorrt_rtx")
    assert result.returncode == 0, result.stderr
    assert len(list((bundle / "engines").iterdir())) == 1


@pytest.mark.parametrize("layout", ["python", "onnxruntime"])
def test_a_repository_is_written_without_pytorch_and_onnx(tmp_path, layout) -> None:
    bundle = build_bundle(tmp_path / "small")
    result = run_without(TRAINING, "triton", str(bundle), "-o", str(tmp_path / "models"), "--layout", layout)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "models" / "tiny" / "config.pbtxt").exists()


def test_vectors_are_written_without_pytorch_and_onnx(tmp_path) -> None:
    bundle, output = build_bundle(tmp_path / "small"), tmp_path / "vectors.json"
    lacking = tuple(package for package in TRAINING if package != "onnxruntime")
    result = run_without(lacking, "vectors", str(bundle), "-o", str(output), "--count", "20")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{output}: 20 captions and seeds, 4 pictures\n"


@pytest.mark.parametrize(
    ("package", "arguments", "command", "extras"),
    [
        ("torch", ("run", "-o", "b"), "bundle", ["export,cpu"]),
        ("filelock", ("build-engine", "b"), "build-engine", ["tensorrt", "tensorrt-rtx", "mnn"]),
        ("tritonclient", ("triton", "b", "-o", "m"), "triton", ["triton"]),
    ],
)
def test_a_missing_package_names_the_extra(package, arguments, command, extras) -> None:
    result = run_without((package,), *arguments)
    assert result.returncode == 2
    remedy = " or ".join(f'pip install "dmgan[{extra}]"' for extra in extras)
    assert result.stderr == f"Error: dmgan-export {command} needs {package}, which is not installed; {remedy}\n"
