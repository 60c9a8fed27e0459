"""What docs/application.md shows works as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.bundles import build_bundle

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
DOCUMENT = (ROOT / "docs" / "application.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with demo/bundle in it."""
    folder = tmp_path_factory.mktemp("application")
    build_bundle(folder / "demo" / "bundle")
    return folder


@pytest.mark.parametrize(
    "snippet", SNIPPETS, ids=[snippet.splitlines()[-1].split("(")[0].strip() for snippet in SNIPPETS]
)
def test_a_snippet_runs(snippet: str, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("red heart\n\ngreen apple\n")
    command = [sys.executable, "-W", "error", "-W", "ignore:unclosed file", "-c", snippet]
    subprocess.run(command, check=True, timeout=60, cwd=tmp_path, env=ENVIRONMENT)
    pictures = [path for path in tmp_path.iterdir() if path.suffix in (".png", ".gif")]
    assert pictures
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()


def test_there_are_snippets_and_they_are_linked() -> None:
    assert len(SNIPPETS) == 3
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(re.findall(r"\(examples/(\w+\.py)\)", DOCUMENT))


@pytest.mark.parametrize(
    ("example", "arguments", "message"),
    [
        ("batch.py", ["nowhere", "captions.txt", "pictures"], "nowhere: no such bundle"),
        ("batch.py", ["demo/bundle", "nowhere.txt", "pictures"], "No such file or directory: 'nowhere.txt'"),
    ],
)
def test_a_mistake_is_one_line(demo: Path, example: str, arguments: list[str], message: str) -> None:
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=demo, env=ENVIRONMENT, check=False)
    assert result.returncode == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (demo / "pictures").exists()


def test_the_batch_goes_on_where_it_stopped(demo: Path, tmp_path: Path) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_text("a red heart\nzebra\n\na blue square\n")
    command = [sys.executable, str(EXAMPLES / "batch.py"), "demo/bundle", str(captions), str(tmp_path / "pictures")]

    def run() -> str:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=60, cwd=demo, env=ENVIRONMENT, check=True
        )
        return result.stderr

    def pictures() -> list[str]:
        return sorted(path.name for path in (tmp_path / "pictures").glob("*.png"))

    assert "line 2: no word of the caption 'zebra'" in run()
    assert pictures() == ["000001.png", "000004.png"]
    first = (tmp_path / "pictures" / "000001.png").stat().st_mtime_ns
    (tmp_path / "pictures" / "000004.png").unlink()
    run()
    assert pictures() == ["000001.png", "000004.png"]
    assert (tmp_path / "pictures" / "000001.png").stat().st_mtime_ns == first
    made = [json.loads(line) for line in (tmp_path / "pictures" / "made.jsonl").read_text().splitlines()]
    assert [(entry["file"], entry["caption"]) for entry in made] == [
        ("000001.png", "a red heart"),
        ("000004.png", "a blue square"),
        ("000004.png", "a blue square"),
    ]
