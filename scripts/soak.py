"""Whether a server stands many requests: good ones, beside clients that leave, stall and send rubbish.

    python -m scripts.soak --requests 20000

It starts `dmgan-serve` with the packaged model and prints a summary in JSON. Status 1 means that a good request was
lost or got another picture, that memory grew, or that something was not given back. It needs Linux, which tells what a
process holds.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
from PIL import Image

from dmgan_runtime import Generator
from dmgan_runtime.cli.common import DmganCommand

GOOD_CLIENTS = 3
BAD_CLIENTS = 6
BAD_SHARE = 0.3
RECEIVE_SECONDS = 2
GROWTH = 0.05
"""The share by which memory may grow after the warm-up, a tenth of the requests."""

_PATH = "/v1/images/generations"
_PROMPT, _SEED = "red heart", 7
_CONTENT = json.dumps({"prompt": _PROMPT, "seed": _SEED}).encode()
_REQUEST = (
    f"POST {_PATH} HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\nContent-Length: {len(_CONTENT)}\r\n\r\n"
).encode() + _CONTENT


class Held(NamedTuple):
    """What a process holds."""

    rss_mb: float
    handles: int
    threads: int


class Soak:
    """The clients of one server, and what came of their requests."""

    def __init__(self, port: int, expected: str) -> None:
        self.good: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()
        self._port, self._expected = port, expected
        self._lock = threading.Lock()
        self._local = threading.local()

    def ask(self, _: int) -> None:
        """A good client: one picture, over a connection that it keeps."""
        try:
            connection = self._local.connection
        except AttributeError:
            connection = self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        try:
            connection.request("POST", _PATH, _CONTENT, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                outcome = f"status {answer.status}"
            else:
                right = picture_hash(base64.b64decode(json.loads(content)["data"][0]["b64_json"])) == self._expected
                outcome = "right" if right else "another picture"
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            outcome = type(error).__name__
        with self._lock:
            self.good[outcome] += 1

    def disturb(self, number: int) -> None:
        """A bad client, of one of the kinds in turn."""
        kinds: tuple[Callable[[socket.socket, random.Random], None], ...] = (leave, stall, send_rubbish)
        kind = kinds[number % len(kinds)]
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
            try:
                kind(connection, random.Random(number))  # noqa: S311 - nothing secret
                outcome = kind.__name__
            except TimeoutError:
                outcome = f"{kind.__name__}: still connected"
            except OSError:  # reset by the server, which has heard enough
                outcome = kind.__name__
        with self._lock:
            self.bad[outcome] += 1


def leave(connection: socket.socket, draw: random.Random) -> None:
    """Asks and goes, at once or while the picture is made."""
    connection.sendall(_REQUEST)
    time.sleep(draw.choice((0, 0.005, 0.02)))


def stall(connection: socket.socket, draw: random.Random) -> None:
    """Sends a part of a request, and waits until the server has had enough."""
    connection.sendall(_REQUEST[: draw.randrange(len(_REQUEST))])
    read_all(connection)


def send_rubbish(connection: socket.socket, draw: random.Random) -> None:
    """Sends bytes that are no request, or a request whose body is none."""
    rubbish = draw.randbytes(draw.randrange(1, 4000))
    head = _REQUEST.partition(b"Content-Length")[0] + f"Content-Length: {len(rubbish)}\r\n".encode()
    connection.sendall(draw.choice((rubbish + b"\r\n\r\n", head + b"Connection: close\r\n\r\n" + rubbish)))
    read_all(connection)


def read_all(connection: socket.socket) -> None:
    """Reads until the server closes."""
    while connection.recv(65536):
        pass


def picture_hash(content: bytes) -> str:
    """Of a picture's pixels, whatever is written beside them."""
    with Image.open(io.BytesIO(content)) as picture:
        return hashlib.sha256(picture.tobytes()).hexdigest()


def held_by(pid: int) -> Held:
    """What a process holds now."""
    process = Path("/proc") / str(pid)
    status = dict(re.findall(r"^(\w+):\s+(\d+)", (process / "status").read_text(), re.MULTILINE))
    return Held(round(int(status["VmRSS"]) / 1024, 1), len(list((process / "fd").iterdir())), int(status["Threads"]))


def get(port: int, path: str) -> tuple[int, str]:
    """Status and content, over a connection that is closed then."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def work_left(port: int) -> dict[str, float]:
    """How many requests wait, and how many a thread works on, by the server's own account."""
    gauges = re.findall(r"^(dmgan_queue|dmgan_in_flight) (\S+)$", get(port, "/metrics")[1], re.MULTILINE)
    return {name: float(value) for name, value in gauges}


def settle(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether it comes to that in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@contextmanager
def running_server(threads: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A `dmgan-serve` that is ready, and its port."""
    command = [sys.executable, "-m", "dmgan_runtime.cli.serve", "--port", "0", "--threads", str(threads)]
    command += ["--receive-timeout", str(RECEIVE_SECONDS), "--queue", str(GOOD_CLIENTS + BAD_CLIENTS)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        try:
            url, started, _ = process.stdout.readline().partition("/ serves")
            if not started:
                log.seek(0)
                raise SystemExit(f"dmgan-serve did not start: {log.read().decode(errors='replace').strip()}")
            port = int(url.rpartition(":")[2])
            if not settle(lambda: get(port, "/health/ready")[0] == 200):
                raise SystemExit(get(port, "/health/ready")[1])
            yield process, port
        finally:
            process.terminate()
            process.wait(60)


@click.command(cls=DmganCommand, context_settings={"show_default": True})
@click.option("--requests", type=click.IntRange(100), default=20_000, help="Of all clients together.")
@click.option("--threads", type=click.IntRange(1), default=1, help="CPU threads of one operator.")
def main(requests: int, threads: int) -> None:
    """Send a server many requests, good and bad, and say in JSON how it stood them."""
    with Generator.open(threads=threads) as generator:
        # A server computes stage by stage, which in bf16 rounds otherwise than `generate`.
        *_, made = generator.stream(_PROMPT, seed=_SEED)
    expected = hashlib.sha256(made.image.tobytes()).hexdigest()
    began = time.monotonic()
    with running_server(threads) as (process, port):
        soak = Soak(port, expected)
        held = {"start": held_by(process.pid)}
        for phase, share in (("warm-up", 0.1), ("end", 0.9)):
            send(soak, round(requests * share))
            settle(lambda: held_by(process.pid).handles <= held["start"].handles)
            held[phase] = held_by(process.pid)
        # The picture of a client that left may still be in the making when its connection is gone.
        settle(lambda: not any(work_left(port).values()))
        left = work_left(port)
    summary: dict[str, Any] = {
        "good": dict(soak.good),
        "bad": dict(soak.bad),
        "held": {name: each._asdict() for name, each in held.items()},
        "left": left,
        "exit_status": process.returncode,
        "seconds": round(time.monotonic() - began, 1),
    }
    trouble = {
        "good requests were lost or wrong": soak.good.keys() != {"right"},
        "bad clients were not sent away": any("still" in outcome for outcome in soak.bad),
        "memory grew": held["end"].rss_mb > held["warm-up"].rss_mb * (1 + GROWTH),
        "handles were not given back": held["end"].handles > held["start"].handles,
        "work was left": any(left.values()),
        "it did not stop as it should": process.returncode != 0,
    }
    summary["trouble"] = [what for what, is_so in trouble.items() if is_so]
    click.echo(json.dumps(summary, indent=1))
    sys.exit(bool(summary["trouble"]))


def send(soak: Soak, requests: int) -> None:
    """So many requests, good and bad at the same time; returns when all have ended."""
    bad = round(requests * BAD_SHARE)
    with ThreadPoolExecutor(GOOD_CLIENTS) as good_clients, ThreadPoolExecutor(BAD_CLIENTS) as bad_clients:
        asked = [good_clients.submit(soak.ask, number) for number in range(requests - bad)]
        asked += [bad_clients.submit(soak.disturb, number) for number in range(bad)]
    for each in asked:
        each.result()


if __name__ == "__main__":
    main()
