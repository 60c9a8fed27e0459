"""A bundle, and a real tritonserver where `make setup` could install one."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.bundles import build_bundle

ENVIRONMENT = Path(sys.prefix) / "triton"
"""An environment of its own, since this Triton's Python backend needs numpy 1."""


class Server(NamedTuple):
    """A tritonserver that is ready, and a folder whose models it loads when it is told to."""

    http: str
    grpc: str
    later: Path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle, to be read only."""
    return build_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@contextmanager
def tritonserver(folder: Path, *repositories: Path) -> Iterator[Server]:
    """Runs a tritonserver with every model of some repositories."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = ENVIRONMENT / "lib" / f"python{version}" / "site-packages"
    program = packages / "pytriton" / "tritonserver"
    libraries = Path(sysconfig.get_config_var("LIBDIR"))
    if not program.is_dir():
        pytest.skip(f"no tritonserver in {ENVIRONMENT}; `make test-hosts` installs it on Linux x86_64")
    if not (libraries / f"libpython{version}.so.1.0").exists():
        pytest.skip("this Python has no shared library, and the Python backend of Triton needs that")
    backends, later = folder / "backends", folder / "later"
    later.mkdir()
    shutil.copytree(program / "backends", backends)
    shutil.copy(program / "python_backend_stubs" / version / "triton_python_backend_stub", backends / "python")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        http, grpc = (each.getsockname()[1] for each in sockets)
    command = [program / "bin" / "tritonserver", "--backend-directory", backends, "--allow-metrics", "false"]
    command += ["--http-address", "127.0.0.1", "--grpc-address", "127.0.0.1", "--http-port", http, "--grpc-port", grpc]
    command += ["--model-control-mode", "explicit", "--load-model", "*"]
    for repository in (*repositories, later):
        command += ["--model-repository", repository]
    # The stub finds its Python, and so its packages, by PATH.
    environment = {
        "PATH": f"{ENVIRONMENT / 'bin'}:/usr/bin:/bin",
        "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{libraries}",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(map(str, command), stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        url = f"http://127.0.0.1:{http}"
        for _ in range(600):
            if process.poll() is not None or _is_ready(url):
                break
            time.sleep(0.1)
        assert _is_ready(url), (folder / "log").read_text(errors="replace")
        yield Server(url, f"127.0.0.1:{grpc}", later)
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False
