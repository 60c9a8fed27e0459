"""What docs/application.md shows works as it stands."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, unquote

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


@pytest.fixture
def server(demo: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, str(EXAMPLES / "serve.py"), str(demo / "demo" / "bundle"), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT
    ) as server:
        try:
            assert server.stdout is not None
            found = re.match(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
            assert found is not None
            yield server, found[0]
        finally:
            server.kill()


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_server_serves_many_and_ends(server: tuple[subprocess.Popen[str], str]) -> None:
    process, url = server
    assert get(f"{url}/health") == (200, b"ok\n")
    assert [get(f"{url}/{path}")[0] for path in ("favicon.ico", "any?caption=heart")] == [404, 404]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(get, [f"{url}/?caption=a+red+heart&seed={seed % 2}" for seed in range(48)]))
    assert {status for status, _ in answers} == {200}
    assert len({content for _, content in answers}) == 2
    with Image.open(io.BytesIO(answers[0][1])) as picture:
        assert picture.size == (32, 32)
    with Image.open(io.BytesIO(get(f"{url}/?caption=heart&seed=1&resolution=16")[1])) as picture:
        assert picture.size == (16, 16)
    with urllib.request.urlopen(f"{url}/?caption=heart+{quote('赤い')}&seed=1", timeout=30) as answer:
        assert unquote(answer.headers["X-Unknown-Words"]) == "赤い"
    for query, said in (
        ("caption=zebra", b"no word of the caption"),
        ("", b"has no words"),
        ("caption=heart&seed=-1", b"seed is '-1'"),
        ("caption=heart&seed=seven", b"seed is 'seven'; pass a whole number in digits"),
        ("caption=heart&seed=1_0", b"seed is '1_0'"),
        ("caption=heart&seed=", b"seed is ''"),
        ("caption=heart&seed=99999999999999999999", b"is out of range"),
        ("caption=heart&resolution=5", b"pass one of 8, 16, 32"),
        ("caption=heart&size=5", b"the parameter 'size' is unknown; there are caption, seed and resolution"),
        (f"caption={quote('zebra' + chr(27) + '[2J')}", rb"\x1b[2J"),
    ):
        status, content = get(f"{url}/?{query}")
        assert (status, said in content, b"\x1b" in content) == (400, True, False)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("example", "arguments", "message"),
    [
        ("serve.py", ["nowhere"], "nowhere: no such bundle"),
        ("serve.py", ["demo/bundle", "--port", "{taken}"], "cannot serve on port {taken}: "),
        ("batch.py", ["nowhere", "captions.txt", "pictures"], "nowhere: no such bundle"),
        ("batch.py", ["demo/bundle", "nowhere.txt", "pictures"], "No such file or directory: 'nowhere.txt'"),
    ],
)
def test_a_mistake_is_one_line(demo: Path, example: str, arguments: list[str], message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, str(EXAMPLES / example), *(each.format(taken=port) for each in arguments)]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=60, cwd=demo, env=ENVIRONMENT, check=False
        )
    assert result.returncode == 1
    assert message.format(taken=port) in result.stderr
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
