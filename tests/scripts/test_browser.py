"""`python -m scripts.browser` runs through."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.bundles import build_bundle

pytest.importorskip("playwright.sync_api")
MODULES = Path(__file__).parents[2] / ".cache" / "node" / "node_modules"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed (apt-get install chromium)")
@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
@pytest.mark.skipif(not MODULES.is_dir(), reason="onnxruntime-web is not installed; make node-modules does it")
def test_every_contender_has_its_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts import browser

    monkeypatch.setattr(browser, "WARM_UP", 1)
    result = CliRunner().invoke(
        browser.main,
        [str(build_bundle(tmp_path / "tiny")), "--images", "2", "--rounds", "1", "--node-modules", str(MODULES)],
    )
    assert result.exit_code == 0, result.output
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \|$", result.stdout, re.M)
    assert [name for name, *_ in rows] == ["Chromium", "Node", "Python"]
    assert all(float(median) >= float(fastest) > 0 for _, median, fastest in rows)
    assert re.search(r"to the first picture in Chromium: [\d.]+ s, on the second visit [\d.]+ s", result.stdout)
