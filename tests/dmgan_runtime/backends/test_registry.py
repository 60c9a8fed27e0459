from __future__ import annotations

import re
import tomllib
from pathlib import Path

from dmgan_runtime.backends.registry import ENGINES


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
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for engine in ENGINES:
        brought = {re.split(r"[\[<>=;, ]", one)[0] for one in project["optional-dependencies"][engine.extra]}
        assert set(engine.distributions) <= brought
