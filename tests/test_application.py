"""What docs/application.md shows works as it stands."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.bundles import build_bundle

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
DOCUMENT = (ROOT / "docs" / "application.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
SNIPPETS = [block for block in BLOCKS if not re.search("from (fastapi|flask) import", block)]
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
    assert len(BLOCKS) == 5
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(re.findall(r"\(examples/(\w+\.py)\)", DOCUMENT))


def served(framework: str) -> dict[str, Any]:
    """What the module of the document's application holds."""
    (block,) = (block for block in BLOCKS if f"from {framework} import" in block)
    module: dict[str, Any] = {"__name__": "application"}
    exec(compile(block, "application.py", "exec"), module)
    return module


def test_fastapi_answers_with_json() -> None:
    module = served("fastapi")
    with module["generator"], TestClient(module["app"]) as client:
        answer = client.get("/image", params={"caption": "red qwert heart"}).json()
        refused = client.get("/image", params={"caption": "qwert"})
    with Image.open(io.BytesIO(base64.b64decode(answer["png"]))) as picture:
        assert picture.size == (256, 256)
    assert 0 <= int(answer["seed"]) < 2**64
    assert answer["unknown_words"] == ["qwert"]
    assert refused.status_code == 400
    assert "no word of the caption 'qwert'" in refused.json()["detail"]


def test_flask_answers_with_the_png() -> None:
    module = served("flask")
    with module["generator"]:
        client = module["app"].test_client()
        answer, refused = client.get("/image?caption=red+heart"), client.get("/image")
    assert answer.mimetype == "image/png"
    with Image.open(io.BytesIO(answer.data)) as picture:
        assert picture.size == (256, 256)
    assert refused.status_code == 400


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
