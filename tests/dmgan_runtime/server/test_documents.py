"""What the documents on serving show works as it stands."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from tests.dmgan_runtime.server.conftest import ROOT, ServerProcess, running_server

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def snippets(document: str, language: str = "python") -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block for named, block in blocks if named == language]


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    with running_server(tmp_path_factory.mktemp("emoji"), []) as started:
        yield started


def elsewhere(text: str, server: ServerProcess) -> str:
    """The text with the server's port."""
    assert "127.0.0.1:8000" in text
    return text.replace("http://127.0.0.1:8000", server.url)


def test_three_commands_lead_from_nothing_to_a_picture(emoji: ServerProcess) -> None:
    block = next(block for block in snippets("README.md", "") if "dmgan-serve" in block)
    install, serve, ask = block.strip().splitlines()
    assert (install, serve) == ('pip install ".[cpu,serve]"', "dmgan-serve &")
    command = [*shlex.split(elsewhere(ask, emoji)), "-sS"]
    said = subprocess.run(command, check=True, timeout=60, capture_output=True).stdout
    content = base64.b64decode(json.loads(said)["data"][0]["b64_json"])
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.size, picture.text["Description"]) == ((256, 256), "red heart")


def test_asking(emoji: ServerProcess, tmp_path: Path) -> None:
    (python,) = snippets("docs/http.md")
    command = [sys.executable, "-c", elsewhere(python, emoji)]
    said = subprocess.run(command, check=True, cwd=tmp_path, timeout=60, capture_output=True, text=True).stdout
    assert said.splitlines() == [
        "8 ['red', 'heart']",
        "image_generation.partial_image 16",
        "image_generation.partial_image 32",
        "image_generation.partial_image 64",
        "image_generation.completed 256",
    ]
    curl = next(block for block in snippets("docs/http.md", "") if block.startswith("curl"))
    said = subprocess.run(["sh", "-c", f"{elsewhere(curl, emoji).strip()} -sS"], check=True, capture_output=True).stdout
    assert said.startswith(b'{"created":')


def test_embedding(tmp_path: Path) -> None:
    application, serve, route = snippets("docs/embedding.md")
    (tmp_path / "application.py").write_text(application)
    program = serve.replace("8000))", "0))\nprint(listener.getsockname()[1], flush=True)", 1)
    assert program != serve
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
            assert httpx2.get(url, timeout=60).text == "pictures are made under /pictures"
            assert "<title>dmgan</title>" in httpx2.get(f"{url}/pictures/").text
            asked = {"prompt": "red heart"}
            assert httpx2.post(f"{url}/pictures/v1/images/generations", json=asked).status_code == 200
        finally:
            process.terminate()
            process.wait(60)
    (tmp_path / "route.py").write_text(route)
    program = (
        "from route import app; from starlette.testclient import TestClient; client = TestClient(app);"
        "print(client.get('/?caption=heart').headers['content-type'], client.get('/?caption=').status_code)"
    )
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout
    assert said == "image/png 400\n"
