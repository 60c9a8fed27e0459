from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

import dmgan_runtime

ROOT = Path(dmgan_runtime.__file__).parents[1]


@dataclass
class ServerProcess:
    """A real `dmgan-serve`."""

    process: subprocess.Popen[str]
    url: str
    log: Path
    serves: str

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def wait_until_ready(self) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with httpx2.Client(timeout=60) as client:
                if client.get(f"{self.url}/health/ready").status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())


@contextmanager
def running_server(
    folder: Path, arguments: Sequence[str | Path], environment: dict[str, str] | None = None
) -> Iterator[ServerProcess]:
    """Starts `dmgan-serve` on a free port, and sees that it has ended."""
    log = folder / "server.log"
    command = [sys.executable, "-m", "dmgan_runtime.cli.serve", *map(str, arguments), "--port", "0", "--threads", "1"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {}),
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("http://"), log.read_text()
            url, _, serves = line.partition("/ serves ")
            yield ServerProcess(process, url, log, serves)
        finally:
            process.terminate()
            try:
                process.wait(60)
            finally:
                process.kill()
                process.stdout.close()


@pytest.fixture(scope="session")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of the tiny bundle that no test stops."""
    with running_server(tmp_path_factory.mktemp("server"), [bundle]) as started:
        started.wait_until_ready()
        yield started
