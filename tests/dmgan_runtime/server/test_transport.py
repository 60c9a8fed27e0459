"""Slow, broken and leaving clients, and the end of the server: real sockets to a real process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dmgan_runtime import Generator
from dmgan_runtime.manifest import MANIFEST_NAME
from dmgan_runtime.server.app import create_app
from dmgan_runtime.server.transport import Server, ServerConfig, Timeouts
from tests.bundles import write_manifest
from tests.dmgan_runtime.server.conftest import ServerProcess, running_server

ASKED = {"prompt": "red heart", "seed": 1}
MANY = 1_000_000


def request(body: dict[str, object], *more: str) -> bytes:
    content = json.dumps(body).encode()
    head = ["POST /v1/images/generations HTTP/1.1", "Host: a", "Content-Type: application/json", *more]
    return "\r\n".join([*head, f"Content-Length: {len(content)}", "", ""]).encode() + content


def connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes; a reset is an error."""
    parts = []
    with connection:
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def metric(server: ServerProcess, name: str) -> float:
    text = httpx2.get(f"{server.url}/metrics").text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == name)


def wait_for(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def trickle(connection: socket.socket, content: bytes, pause: float) -> bytes:
    """Sends a byte now and then until the server has had enough; its answer."""
    connection.settimeout(pause)
    for value in content:
        try:
            connection.sendall(bytes([value]))
            return connection.recv(65536)
        except TimeoutError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            return b""
    raise AssertionError("the server took all of it")


@pytest.fixture(scope="module")
def strict(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with short deadlines, and work that takes long."""
    arguments = [bundle, "--receive-timeout", 1, "--answer-timeout", 2, "--idle-timeout", 3, "--max-images", MANY]
    with running_server(tmp_path_factory.mktemp("strict"), [str(each) for each in arguments]) as started:
        started.wait_until_ready()
        yield started


def test_an_answer_does_not_wait_for_acknowledgements(server: ServerProcess) -> None:
    seconds = []
    with connect(server) as connection:
        for _ in range(40):
            began = time.perf_counter()
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            content = b""
            while not content.endswith(b"}"):
                content += connection.recv(65536)
            seconds.append(time.perf_counter() - began)
    assert min(seconds[20:]) < 0.02  # a delayed acknowledgement takes 0.04; new connections have none


@pytest.mark.parametrize("part", ["head", "body", "chunked body"])
def test_a_request_that_does_not_arrive_in_time_is_408(strict: ServerProcess, part: str) -> None:
    whole = {
        "head": request(ASKED, f"X-Padding: {'a' * 200}"),
        "body": request({**ASKED, "user": "a" * 200}),
        "chunked body": b"POST /v1/images/generations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 50,
    }[part]
    at_once = 0 if part == "head" else whole.index(b"\r\n\r\n") + 4
    connections = [connect(strict) for _ in range(4)]
    start = time.monotonic()
    with ThreadPoolExecutor() as pool:
        for connection in connections:
            connection.sendall(whole[:at_once])
        answers = [pool.submit(trickle, connection, whole[at_once:], 0.1) for connection in connections]
        assert httpx2.post(f"{strict.url}/v1/images/generations", json=ASKED).status_code == 200
        statuses = {answer.result().split(b"\r\n")[0] for answer in answers}
    assert statuses == {b"HTTP/1.1 408 Request Timeout"}
    assert 0.9 < time.monotonic() - start < 3
    for connection in connections:
        connection.close()


def test_a_silent_connection_is_closed(strict: ServerProcess) -> None:
    with connect(strict) as connection:
        start = time.monotonic()
        assert read_all(connection) == b""
        assert 0.9 < time.monotonic() - start < 3


def test_a_connection_rests_between_two_requests_and_is_not_reset(strict: ServerProcess) -> None:
    with connect(strict) as connection:
        start = time.monotonic()
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        while connection.recv(65536):
            pass
        assert time.monotonic() - start > 2.5  # of 3, and the deadline for an answer is 2


def test_deadlines_are_of_a_request_and_not_of_a_connection(strict: ServerProcess) -> None:
    with httpx2.Client() as client:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            answer = client.post(f"{strict.url}/v1/images/generations", json=ASKED)
            assert (answer.status_code, len(strict_connections(client))) == (200, 1)
            time.sleep(0.1)


def strict_connections(client: httpx2.Client) -> list[object]:
    """The connections that a client has open."""
    return client._transport._pool.connections


def test_a_reader_that_stalls_is_left_and_its_work_stops(strict: ServerProcess) -> None:
    with connect(strict) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request({**ASKED, "n": MANY, "stream": True, "partial_images": 2}))
        wait_for(lambda: metric(strict, "dmgan_in_flight") == 1)
        wait_for(lambda: metric(strict, "dmgan_in_flight") == 0, 6)


@pytest.mark.parametrize("stream", [False, True])
def test_work_stops_when_the_client_has_gone(server_of_many: ServerProcess, stream: bool) -> None:
    before = metric(server_of_many, "dmgan_images_total")
    with connect(server_of_many) as connection:
        connection.sendall(request({**ASKED, "n": MANY, "stream": stream}))
        wait_for(lambda: metric(server_of_many, "dmgan_images_total") > before)
    wait_for(lambda: metric(server_of_many, "dmgan_in_flight") == 0)
    assert metric(server_of_many, "dmgan_images_total") - before < MANY / 10
    if not stream:  # a stream had its status before its client went
        wait_for(lambda: '"status": 499' in server_of_many.log.read_text())


@pytest.fixture(scope="module")
def server_of_many(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("many"), [bundle, "--max-images", str(MANY)]) as started:
        started.wait_until_ready()
        yield started


@pytest.mark.parametrize(
    "line",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nNo colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000,
        b"GET nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET http://a/v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /static/%00 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"POST /v1/images/generations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nnot hexadecimal\r\n",
        b"POST /v1/images/generations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health/live HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
    ],
)
def test_an_odd_request_is_400(server: ServerProcess, line: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(line)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(body)["error"]["message"]  # and no second answer behind it
    assert httpx2.get(f"{server.url}/health/live").status_code == 200


def test_headers_stay_small_whatever_the_caption(server: ServerProcess) -> None:
    prompt = "heart " + "愛 " * 1000 + "\r\nX-Evil: 1\x1b"
    with connect(server) as connection:
        connection.sendall(request({"prompt": prompt}, "Connection: close"))
        head = read_all(connection).partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.1 200 ")
    assert len(head) < 500
    assert b"Evil" not in head


def test_requests_may_follow_each_other_on_one_connection(server: ServerProcess) -> None:
    with connect(server) as connection:
        connection.sendall(request(ASKED) * 3 + request(ASKED, "Connection: close"))
        assert read_all(connection).count(b"HTTP/1.1 200 OK") == 4


def test_a_body_that_is_too_long_is_answered(server: ServerProcess) -> None:
    with connect(server) as connection:
        connection.sendall(request({"prompt": "heart " * 50_000}, "Connection: close"))
        assert read_all(connection).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("sent", [b"", b"a" * 2_000_000])
@pytest.mark.parametrize("more", [b"", b"Expect: 100-continue\r\n", b"Connection: close\r\n"])
def test_a_body_that_says_it_is_too_long_is_answered_at_once(server: ServerProcess, sent: bytes, more: bytes) -> None:
    head = b"POST /v1/images/generations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" + more
    with connect(server) as connection:
        start = time.monotonic()
        connection.sendall(head + b"Content-Length: 1000000000000\r\n\r\n" + sent)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
        assert time.monotonic() - start < 3  # far from the 10 s for a whole request


@pytest.mark.parametrize("workers", [1, 2])
def test_standard_error_is_json_and_the_address_is_on_standard_output(
    own_bundle: Path, tmp_path: Path, workers: int
) -> None:
    write_manifest(own_bundle, name="../../x\x1b[31m\n{}")
    with running_server(tmp_path, [own_bundle, "--workers", str(workers)]) as server:
        assert server.serves.startswith("../../x\\x1b[31m {} (onnxruntime")
        assert httpx2.get(f"{server.url}/health/live").status_code == 200
        with connect(server) as connection:
            connection.sendall(b"GARBAGE\r\n\r\n")
            read_all(connection)
        server.process.terminate()
        assert server.process.wait(60) == 0
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert {"request", "Invalid HTTP request received."} <= {line["message"] for line in lines}


def ask_all(server: ServerProcess, count: int) -> list[socket.socket]:
    connections = [connect(server) for _ in range(count)]
    for connection in connections:
        connection.sendall(request(ASKED))
    return connections


@pytest.mark.parametrize("workers", [1, 2])
def test_those_in_the_listen_queue_are_answered_at_the_end(bundle: Path, tmp_path: Path, workers: int) -> None:
    with running_server(tmp_path, [bundle, "--workers", str(workers), "--queue", "100"]) as server:
        server.wait_until_ready()
        processes = [*children(server), server.process.pid] if workers > 1 else [server.process.pid]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        connections = ask_all(server, 50)
        for pid in processes:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGCONT)
        answers = [read_all(connection).split(b"\r\n")[0] for connection in connections]
        assert set(answers) <= {b"HTTP/1.1 200 OK", b"HTTP/1.1 503 Service Unavailable"}
        assert server.process.wait(60) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_the_end_under_load_resets_nobody(bundle: Path, tmp_path: Path, workers: int) -> None:
    def ask() -> list[str]:
        outcomes = []
        while not outcomes or outcomes[-1] != "refused":
            try:
                with connect(server) as connection:
                    connection.sendall(request(ASKED, "Connection: close"))
                    outcomes.append(read_all(connection).split(b" ")[1].decode())
            except ConnectionRefusedError:
                outcomes.append("refused")
        return outcomes

    with running_server(tmp_path, [bundle, "--workers", str(workers)]) as server, ThreadPoolExecutor(8) as pool:
        server.wait_until_ready()
        asking = [pool.submit(ask) for _ in range(8)]
        time.sleep(1)
        server.process.terminate()
        outcomes = {outcome for each in asking for outcome in each.result()}
        assert {"200", "refused"} <= outcomes <= {"200", "503", "refused"}
        assert server.process.wait(60) == 0


def test_what_runs_is_finished_and_slow_clients_keep_nobody(bundle: Path, tmp_path: Path) -> None:
    with running_server(tmp_path, [bundle, "--max-images", "300"]) as server:
        server.wait_until_ready()
        slow, idle, running, silent = (connect(server) for _ in range(4))
        slow.sendall(request(ASKED)[:50])
        idle.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        received = b""
        while b"live" not in received:
            received += idle.recv(65536)
        running.sendall(request({**ASKED, "n": 300}))
        wait_for(lambda: metric(server, "dmgan_in_flight") == 1)
        server.process.terminate()
        start = time.monotonic()
        head, _, body = read_all(running).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert len(json.loads(body)["data"]) == 300
        assert (read_all(idle), read_all(silent)) == (b"", b"")
        assert read_all(slow).startswith(b"HTTP/1.1 408 ")
        assert server.process.wait(60) == 0
        assert time.monotonic() - start < 8


def test_the_end_has_a_deadline(bundle: Path, tmp_path: Path) -> None:
    arguments = [bundle, "--max-images", str(MANY), "--shutdown-timeout", "1"]
    with running_server(tmp_path, arguments) as server:
        server.wait_until_ready()
        with connect(server) as endless, connect(server) as stalled:
            endless.sendall(request({**ASKED, "n": MANY}))
            stalled.sendall(request({**ASKED, "n": MANY, "stream": True}))
            wait_for(lambda: metric(server, "dmgan_in_flight") == 2)
            start = time.monotonic()
            server.process.terminate()
            assert server.process.wait(60) == 0
            assert time.monotonic() - start < 6


def children(server: ServerProcess) -> Sequence[int]:
    """The processes that serve: those of the supervisor that hold the listening port."""
    found = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_ends_is_replaced(bundle: Path, tmp_path: Path, number: signal.Signals) -> None:
    with running_server(tmp_path, [bundle, "--workers", "2"]) as server:
        server.wait_until_ready()
        assert httpx2.post(f"{server.url}/v1/images/generations", json=ASKED).status_code == 200
        assert metric(server, "dmgan_images_total") == 1
        wait_for(lambda: server.log.read_text().count("Application startup complete") == 2, 60)
        old = children(server)
        os.kill(old[0], number)
        wait_for(lambda: len(new := children(server)) == 2 and new != old)
        assert "another takes its place" in server.log.read_text()
        for _ in range(4):
            assert httpx2.post(f"{server.url}/v1/images/generations", json=ASKED).status_code == 200
        server.process.terminate()
        assert server.process.wait(60) == 0


def test_one_that_cannot_be_replaced_at_once_takes_nobody_with_it(own_bundle: Path, tmp_path: Path) -> None:
    with running_server(tmp_path, [own_bundle, "--workers", "2"]) as server:
        server.wait_until_ready()
        wait_for(lambda: server.log.read_text().count("Application startup complete") == 2, 60)
        time.sleep(5.5)  # sooner they would count as such that never began
        hidden = (own_bundle / MANIFEST_NAME).rename(own_bundle / "hidden")
        os.kill(children(server)[0], signal.SIGKILL)
        wait_for(lambda: server.log.read_text().count("another takes its place") >= 2, 60)
        assert httpx2.post(f"{server.url}/v1/images/generations", json=ASKED).status_code == 200
        hidden.rename(own_bundle / MANIFEST_NAME)
        wait_for(lambda: server.log.read_text().count("Application startup complete") == 3, 60)
        server.process.terminate()
        assert server.process.wait(60) == 0


def test_no_process_outlives_the_one_that_started_it(bundle: Path, tmp_path: Path) -> None:
    with running_server(tmp_path, [bundle, "--workers", "2"]) as server:
        wait_for(lambda: server.log.read_text().count("Application startup complete") == 2, 60)
        started = children(server)
        server.process.kill()
        wait_for(lambda: not any(map(runs, started)), 30)


def runs(pid: int) -> bool:
    """Whether a process has not ended, even if nobody has asked yet how it did."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


class Sandboxed(socket.socket):
    """As where a process may give a socket no filter."""

    def setsockopt(self, level: int, option: int, *value: Any) -> None:
        if (level, option) == (socket.SOL_SOCKET, 26):
            raise PermissionError(1, "Operation not permitted")
        super().setsockopt(level, option, *value)


def test_the_end_needs_no_filter(generator: Generator) -> None:
    async def live() -> None:
        app = create_app(generator)
        server = Server(ServerConfig(app, app.state.workers, Timeouts()))
        with Sandboxed() as listener:
            listener.bind(("127.0.0.1", 0))
            living = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            server.should_exit = True
            await living

    asyncio.run(live())


def test_a_process_that_finishes_its_work_leaves_the_socket_to_the_others(bundle: Path, tmp_path: Path) -> None:
    with running_server(tmp_path, [bundle, "--workers", "2", "--max-images", str(MANY)]) as server:
        server.wait_until_ready()
        wait_for(lambda: server.log.read_text().count("Application startup complete") == 2, 60)
        idle, busy = children(server)
        os.kill(idle, signal.SIGSTOP)
        with connect(server) as running:
            running.sendall(request({**ASKED, "n": MANY, "stream": True}))
            assert running.recv(100).startswith(b"HTTP/1.1 200")
            os.kill(idle, signal.SIGCONT)
            os.kill(busy, signal.SIGTERM)
            for _ in range(8):
                assert httpx2.post(f"{server.url}/v1/images/generations", json=ASKED, timeout=10).status_code == 200
            assert Path(f"/proc/{busy}").exists()
        wait_for(lambda: len(new := children(server)) == 2 and busy not in new, 30)
        server.process.terminate()
        assert server.process.wait(60) == 0
