"""Node runs dmgan_runtime/web in one process, which Python's tests ask for one thing after the other."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dmgan_runtime
from dmgan_runtime import errors

ROOT = Path(__file__).parents[2]
MODULE = Path(dmgan_runtime.__file__).parent / "web"
NODE_MODULES = ROOT / ".cache" / "node" / "node_modules"


class Node:
    """The module under Node; its errors are raised as Python's of the same names."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, operation: str, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"operation": operation, **request}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" not in answer:
            return answer["result"]
        if answer["known"]:
            raise getattr(errors, answer["error"])(answer["message"])
        raise AssertionError(f"{answer['error']}: {answer['message']}")


@pytest.fixture(scope="session")
def node_modules() -> Path:
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    if not (NODE_MODULES / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not installed; make node-modules does it, where npm is")
    return NODE_MODULES


@pytest.fixture(scope="session")
def node(node_modules: Path) -> Iterator[Node]:
    command = ["node", str(Path(__file__).with_name("worker.mjs")), str(MODULE), str(node_modules)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Node(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=30) == 0
