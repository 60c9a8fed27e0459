"""The soak passes with the real server, and tells of one that loses requests or makes other pictures."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from PIL import Image

from scripts.soak import Soak, picture_hash
from tests.ray_cluster import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process holds")
def test_the_server_stands_a_small_soak() -> None:
    command = [sys.executable, "-m", "scripts.soak", "--requests", "100"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    said = json.loads(result.stdout)
    assert (said["good"], said["left"]) == ({"right": 70}, {"dmgan_queue": 0, "dmgan_in_flight": 0})
    assert sum(said["bad"].values()) == 30
    # A tenth of so few requests warms nothing up.
    assert set(said["trouble"]) <= {"memory grew"}


def png(colour: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (2, 2), colour).save(content, "PNG")
    return content.getvalue()


@contextmanager
def answering(status: int, picture: bytes) -> Iterator[int]:
    """The port of a server that gives everybody the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"data": [{"b64_json": base64.b64encode(picture).decode()}]}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "colour", "outcome"),
    [(200, "red", "right"), (200, "blue", "another picture"), (429, "red", "status 429")],
)
def test_what_came_of_a_good_request(status: int, colour: str, outcome: str) -> None:
    with answering(status, png(colour)) as port:
        soak = Soak(port, picture_hash(png("red")))
        soak.ask(0)
    assert soak.good == {outcome: 1}


def test_a_request_without_an_answer_is_lost() -> None:
    with answering(200, b"") as port:
        pass
    soak = Soak(port, "")
    soak.ask(0)
    assert soak.good == {"ConnectionRefusedError": 1}
