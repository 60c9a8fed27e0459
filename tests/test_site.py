"""The site builds without a warning, holds every page, and loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import dmgan_runtime
from dmgan_train.settings import Settings

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?(https?:[^\s\">]+)", page.read_text())
        assert loaded == [], page.name


def test_every_public_name_command_and_setting_has_its_entry(site: Path) -> None:
    python, commands, settings = (
        (site / "reference" / f"{name}.html").read_text() for name in ("python", "commands", "settings")
    )
    entries = set(re.findall(r'id="dmgan_runtime\.(?:errors\.)?(\w+)"', python))
    assert set(dmgan_runtime.__all__) - entries == {"__version__"}
    names = ["dmgan-generate", "dmgan-serve", "dmgan-doctor", "dmgan-train-fit", "dmgan-export-build-engine"]
    assert [name for name in names if f'id="{name}"' not in commands] == []
    keys = [
        f"{section}.{key}"
        for section, values in msgspec.to_builtins(Settings()).items()
        if isinstance(values, dict)
        for key in values
    ]
    assert [key for key in keys if f"<code>{key}</code>" not in settings] == []
    assert "whole number from 2" in settings


def test_llms_txt_leads_to_pages(site: Path) -> None:
    links = re.findall(r"^- \[[^]]+\]\(([^)]+)\): \S.*$", (site / "llms.txt").read_text(), re.MULTILINE)
    assert {"http.html", "own-pictures.html", "bundle.html", "reference/settings.html"} <= set(links)
    assert [link for link in links if not (site / link).is_file()] == []
