"""`dmgan-export build-engine`, and `--tensorrt` of the export."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dmgan_runtime.backends.built_engines import parse_engine_manifest
from export import cli
from export.commands import main
from tests.bundles import build_bundle, zip_bundle
from tests.export.models import small_model
from tests.export.tensorrt.half import add_half

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this platform")


@pytest.fixture(autouse=True)
def _only_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return build_bundle(tmp_path / "small")


def build(*arguments: object):
    return CliRunner().invoke(main, ["build-engine", *map(str, arguments)], prog_name="dmgan-export")


def engine(bundle: Path):
    (folder,) = (bundle / "engines").iterdir()
    return parse_engine_manifest((folder / "engine.json").read_bytes(), "engine.json")


def test_it_builds_and_says_what(small) -> None:
    result = build(small)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{small / 'engines' / engine(small).folder}: written\n"
    lines = result.stderr.splitlines()
    assert lines[0] == f"tensorrt_rtx {engine(small).version}, fp32, batches of 1 to 16, fastest at 4"
    assert lines[1] == "building text_encoder in fp32 ..."
    assert lines[-1].startswith("generator_2.plan: ")
    assert build(small).stdout.endswith(": is there already, and every hash is right\n")


def test_options_reach_the_engine(small) -> None:
    result = build(small, "--target", "sm120", "--target", "sm_86", "--min-batch", 2, "--max-batch", 3)
    assert result.exit_code == 0, result.output
    manifest = engine(small)
    assert manifest.compute_capabilities == (86, 120)
    assert str(manifest.profile) == "b2-3-3"


def test_auto_takes_fp16_if_it_is_there(small) -> None:
    assert build(add_half(small)).exit_code == 0
    assert engine(small).precision == "fp16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "8.9"], "'8.9' is no compute capability; write sm89 for 8.9"),
        (["--target", "sm90"], "cannot build for sm90; it offers sm75"),
        (["--min-batch", "8", "--max-batch", "4"], "must be min <= opt <= max"),
        (["--opt-batch", "32"], "must be min <= opt <= max"),
        (["--precision", "int8"], "no generators in int8, but in fp32"),
        (["--version-compatible"], "--version-compatible: not with tensorrt_rtx"),
        (["--hardware-compatibility", "ampere_plus"], "--hardware-compatibility: not with tensorrt_rtx"),
        (["--timing-cache", "times"], "--timing-cache: not with tensorrt_rtx"),
        (["--engine", "tensorrt"], 'install it with: pip install "dmgan[tensorrt]"'),
    ],
)
def test_a_mistake_is_a_message_and_writes_nothing(small, arguments, message) -> None:
    result = build(small, *arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not (small / "engines").exists()


def test_an_engine_that_cannot_be_built_is_no_users_mistake(small) -> None:
    result = build(small, "--target", "sm75")
    assert result.exit_code == 1
    assert "cannot build it: " in result.stderr


def test_no_bundle_is_a_users_mistake(tmp_path, small) -> None:
    assert build(tmp_path / "none").exit_code == 2
    result = build(zip_bundle(small, tmp_path / "b.zip"))
    assert result.exit_code == 2
    assert "unpack it, or pass --output" in result.stderr


def test_an_export_builds_its_engines(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cli, "read_model", lambda *_: small_model(1))
    result = CliRunner().invoke(main, [str(run.root), "-o", str(tmp_path / "b"), "--tensorrt"])
    assert result.exit_code == 0, result.output
    assert engine(tmp_path / "b").precision == "fp32"
    assert "dmgan-generate" in result.stdout.splitlines()[-1]


def test_an_export_that_cannot_build_engines_does_not_begin(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cli, "write_bundle", lambda *_: pytest.fail("the export began"))
    result = CliRunner().invoke(main, [str(run.root), "-o", str(tmp_path / "b.zip"), "--tensorrt"])
    assert result.exit_code == 2
    assert "leave out --tensorrt or the .zip" in result.stderr
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    result = CliRunner().invoke(main, [str(run.root), "-o", str(tmp_path / "b"), "--tensorrt"])
    assert result.exit_code == 2
    assert 'pip install "dmgan[tensorrt]" or pip install "dmgan[tensorrt-rtx]"' in result.stderr
