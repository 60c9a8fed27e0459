from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dmgan_runtime.cli.serve import main
from dmgan_runtime.server import run
from tests.dmgan_runtime.server.conftest import running_server

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such bundle"),
        (["--host", "nowhere.invalid"], "cannot listen on nowhere.invalid, port 8000"),
        (["--host", "127.0.0..1"], "cannot listen on 127.0.0..1, port 8000 ("),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1, port 8000"),
        (["--port", "{taken}"], "cannot listen on 127.0.0.1, port {taken} (Address already in use"),
        (["{bundle}", "{bundle}"], "two bundles have the name"),
        (["--api-key", ""], "the API key is empty"),
        (["--backend", "nonsense"], "nonsense"),
        (["--concurrency", "0"], "--concurrency"),
    ],
)
def test_a_mistake_is_one_line(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(run, "log_json_lines", lambda: None)  # this is no process of its own
    monkeypatch.setattr(run, "_exit_on_signals", lambda leave: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values = {"taken": taken.getsockname()[1], "bundle": bundle}
        result = CliRunner().invoke(main, [each.format(**values) for each in arguments])
    assert result.exit_code == 2
    assert message.format(**values) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_key_that_is_set_to_nothing_is_no_server_without_one(bundle: Path) -> None:
    result = CliRunner().invoke(main, [str(bundle), "--host", "192.0.2.1"], env={"DMGAN_API_KEY": ""})
    assert result.exit_code == 2
    assert "the API key is empty" in result.stderr


def test_it_says_what_it_needs() -> None:
    program = (
        "import sys; sys.modules['starlette'] = None; from dmgan_runtime.cli.serve import main; main(prog_name='x')"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    assert 'needs starlette, which is not installed; pip install "dmgan[serve]"' in result.stderr.replace(
        "starlette.applications", "starlette"
    )


@pytest.mark.parametrize("host", ["localhost", "::1"])
def test_it_listens_where_it_was_told(bundle: Path, tmp_path: Path, host: str) -> None:
    with running_server(tmp_path, [bundle, "--host", host]) as server:
        shown = "[::1]" if host == "::1" else host
        assert server.url.startswith(f"http://{shown}:")
        with socket.create_connection((host, server.port), timeout=20):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1" if host == "::1" else "::1", server.port), timeout=20)
