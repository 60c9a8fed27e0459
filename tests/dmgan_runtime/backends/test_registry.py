from __future__ import annotations

import importlib
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from dmgan_runtime import BackendError, Generator
from dmgan_runtime.backends.registry import ENGINES, PACKAGES, find_engine_row, installed_versions
from dmgan_runtime.cli.doctor import probe_engines

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def test_every_engine_has_a_home() -> None:
    assert [engine.load_class().__name__ for engine in ENGINES] == [
        "TensorRtBackend",
        "TensorRtRtxBackend",
        "OrtCudaBackend",
        "MnnBackend",
        "OrtCpuBackend",
        "OpenVinoBackend",
    ]


def test_the_documentation_has_the_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "engines.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`[^|]*\| `(\w+)` \| `dmgan\[([\w-]+)\]`[^|]*\|([^|]*)\|", page, re.MULTILINE)
    assert [row[:3] for row in rows] == [(engine.backend, engine.device, engine.extra) for engine in ENGINES]
    for (*_, cell), engine in zip(rows, ENGINES, strict=True):
        assert set(re.findall(r"`(\w+)`", cell)) == set(engine.precisions)


def test_every_extra_is_in_the_package_and_brings_the_engine() -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    for engine in ENGINES:
        brought = {re.split(r"[\[<>=;, ]", one)[0] for one in project["optional-dependencies"][engine.extra]}
        assert set(engine.distributions) <= brought


def test_only_what_is_installed_has_a_version() -> None:
    assert list(installed_versions(["numpy", "no-such-package-here"])) == ["numpy"]
    assert set(installed_versions()) <= set(PACKAGES)


def test_no_extra_brings_a_version_that_is_too_old() -> None:
    extras = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for engine in ENGINES:
        asked = re.search(rf"{engine.distributions[0]}(?:\[.*\])?>=([\d.]+)", " ".join(extras[engine.extra]))
        assert asked
        assert tuple(map(int, asked[1].split("."))) >= engine.oldest
    assert all(find_engine_row(*each).oldest > (1, 0) for each in (("onnxruntime", "cpu"), ("openvino", "cpu")))


@pytest.mark.parametrize(("name", "extra"), [("onnxruntime", "cpu"), ("openvino", "openvino")])
class TestPackagesThatAreOfNoUse:
    """Each is an engine that cannot be had here, with its remedy, and the next one serves."""

    def check(self, bundle: Path, name: str, message: str) -> None:
        with pytest.raises(BackendError, match=message):
            Generator.open(bundle, backend=name, device="cpu")
        with Generator.open(bundle) as generator:
            assert generator.active.backend == {"onnxruntime": "openvino", "openvino": "onnxruntime"}[name]
        (found,) = (each for each in probe_engines() if (each.backend, each.device) == (name, "cpu"))
        assert found.state == "missing"
        assert re.search(message, found.verdict)

    def test_a_folder_of_its_name(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: str
    ) -> None:
        (tmp_path / name).mkdir()
        for each in ("onnxruntime", "openvino"):
            importlib.import_module(each)  # the one that is to serve, while it can be found
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        monkeypatch.delitem(sys.modules, name)
        self.check(
            bundle,
            name,
            rf'{name} is not the package \(.*{name}\).*; pip uninstall {name}.*, then pip install "dmgan\[{extra}\]"',
        )

    def test_one_that_is_too_old(self, bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: str) -> None:
        old = ModuleType(name)
        old.__version__ = {"onnxruntime": "1.9.0", "openvino": "2023.0.2-11065-e662b1a3301-releases/2023/0"}[name]
        monkeypatch.setitem(sys.modules, name, old)
        oldest = ".".join(map(str, find_engine_row(name, "cpu").oldest))
        self.check(
            bundle,
            name,
            rf'{name} .* is older than {oldest}; pip uninstall {name}, then pip install "dmgan\[{extra}\]"',
        )
