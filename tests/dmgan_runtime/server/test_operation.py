"""What an operator needs: health, metrics, limits, keys, queues, logs."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from dmgan_runtime import Generation, Generator, SettingsError
from dmgan_runtime.manifest import SelfTestEntry
from dmgan_runtime.server import ServerSettings, create_app
from dmgan_runtime.server.logs import JsonLines
from tests.bundles import SPEC, write_manifest

GENERATIONS = "/v1/images/generations"
ASKED = {"prompt": "red heart zebra", "seed": 1}


class HeldGenerator(Generator):
    """A real generator whose stages come when the test lets them."""

    @classmethod
    def of(cls, bundle: Path) -> HeldGenerator:
        held = cls.open(bundle, backend="onnxruntime", threads=1)
        held.allowed = threading.Semaphore(0)
        held.stages = 0
        return held

    def stream(self, *arguments: Any, **options: Any) -> Iterator[Generation]:
        def stages() -> Iterator[Generation]:
            for generation in inner:
                assert self.allowed.acquire(timeout=20)
                self.stages += 1
                yield generation

        inner = super().stream(*arguments, **options)
        return stages()

    def interpolate(self, *arguments: Any, progress: Any, **options: Any) -> list[Image.Image]:
        def held_progress(done: int, total: int) -> None:
            assert self.allowed.acquire(timeout=20)
            self.stages += 1
            progress(done, total)

        return super().interpolate(*arguments, progress=held_progress, **options)


@pytest.fixture
def held(bundle: Path) -> Iterator[HeldGenerator]:
    with HeldGenerator.of(bundle) as generator:
        yield generator
        generator.allowed.release(1000)


def metrics(client: TestClient) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def test_ready_waits_for_the_self_test(bundle: Path) -> None:
    with Generator.open(bundle) as generator, TestClient(create_app(generator)) as client:
        assert client.get("/health/live").status_code == 200
        wait_for(lambda: client.get("/health/ready").status_code == 200)


def test_a_bundle_that_makes_other_images_is_never_ready(own_bundle: Path) -> None:
    thumbnails = {side: bytes(8 * 8 * 3) for side in SPEC.resolutions}
    write_manifest(own_bundle, self_test=SelfTestEntry(caption="red heart", seed=1, thumbnails=thumbnails))
    with Generator.open(own_bundle) as generator, TestClient(create_app(generator)) as client:
        wait_for(lambda: "generates another image" in client.get("/health/ready").json()["error"]["message"])
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200


def test_a_self_test_that_cannot_run_is_told_too(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run(_: Generator) -> None:
        raise MemoryError

    monkeypatch.setattr("dmgan_runtime.server.models.run_self_test", run)
    with TestClient(create_app(generator)) as client:
        wait_for(lambda: "the log says why" in client.get("/health/ready").json()["error"]["message"])
        assert client.get("/health/ready").status_code == 503
    (record,) = (each for each in caplog.records if each.exc_info)
    assert record.exc_info[0] is MemoryError


def test_a_full_queue_is_429_and_says_when_to_come_again(held: HeldGenerator) -> None:
    app = create_app(held, ServerSettings(concurrency=1, queue=1))
    with TestClient(app) as client, ThreadPoolExecutor() as pool:
        running = pool.submit(client.post, GENERATIONS, json=ASKED)
        wait_for(lambda: metrics(client)[("dmgan_in_flight",)] == 1)
        waiting = pool.submit(client.post, GENERATIONS, json=ASKED)
        wait_for(lambda: metrics(client)[("dmgan_queue",)] == 1)
        refused = client.post(GENERATIONS, json=ASKED)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert client.get("/v1/models").status_code == 200
        held.allowed.release(1000)
        assert running.result().json()["data"] != []
        assert waiting.result().status_code == 200
        wait_for(lambda: metrics(client)[("dmgan_in_flight",)] == metrics(client)[("dmgan_queue",)] == 0)
        assert client.post(GENERATIONS, json=ASKED).status_code == 200


def test_metrics(bundle: Path) -> None:
    with Generator.open(bundle, backend="onnxruntime") as generator, TestClient(create_app(generator)) as client:
        client.post(GENERATIONS, json={**ASKED, "n": 2})
        client.post(GENERATIONS, json={"prompt": "zebra"})
        found = metrics(client)
        assert found[("dmgan_requests_total", GENERATIONS, "200")] == 1
        assert found[("dmgan_requests_total", GENERATIONS, "400")] == 1
        assert found[("dmgan_images_total", "tiny")] == 2
        assert found[("dmgan_unknown_words_total", "tiny")] == 2
        assert found[("dmgan_stage_seconds_count", "tiny", "8")] == 2
        assert found[("dmgan_engine_info", "onnxruntime", "cpu", "tiny", "fp32", generator.active.version)] == 1


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", "Bearer secret2", "secret", "Bearer sécret"])
def test_a_key(generator: Generator, given: str | None) -> None:
    with TestClient(create_app(generator, ServerSettings(api_key="secret"))) as client:
        headers = {} if given is None else {"Authorization": given.encode()}
        for path in ("/v1/models", "/v1/models/tiny"):
            answer = client.get(path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert client.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200
        assert {client.get(path).status_code for path in ("/", "/health/live", "/metrics")} == {200}


@pytest.mark.parametrize("prefixed", [False, True])  # Uvicorn writes the root path before the path, others do not
@pytest.mark.parametrize("root_path", ["", "/", "/images", "/images/"])
def test_the_key_is_asked_for_under_any_root_path(generator: Generator, root_path: str, prefixed: bool) -> None:
    app = create_app(generator, ServerSettings(api_key="secret"))
    with TestClient(app, root_path=root_path) as client:
        for path in ("/v1/models", "//v1/models"):
            url = f"http://testserver{root_path if prefixed else ''}{path}"
            assert client.get(url).status_code in (401, 404)  # 404 where no route is
        url = f"http://testserver{root_path if prefixed else ''}/v1/models"
        assert client.get(url).status_code == 401
        assert client.get(url, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_what_the_page_consists_of_is_asked_for_anew_each_time(generator: Generator) -> None:
    with TestClient(create_app(generator)) as client:
        vocabulary = f"/v1/models/{generator.manifest.name}/vocabulary"
        for path in ("/", "/static/page.js", "/dmgan/tokenizer.js", vocabulary):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")


def test_other_pages_may_not_ask_unless_they_are_named(generator: Generator) -> None:
    # As OpenAI's package for JavaScript asks.
    named = {"Access-Control-Request-Headers": "authorization,content-type,x-stainless-os"}
    question = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST", **named}
    with TestClient(create_app(generator)) as client:
        assert "access-control-allow-origin" not in client.options(GENERATIONS, headers=question).headers
        assert "access-control-allow-origin" not in client.get("/v1/models", headers=question).headers
    settings = ServerSettings(cors_origins=("https://a.example",), api_key="secret")
    with TestClient(create_app(generator, settings)) as client:
        answer = client.options(GENERATIONS, headers=question)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        answer = client.get("/v1/models", headers={"Origin": "https://a.example", "Authorization": "Bearer secret"})
        assert answer.headers["access-control-expose-headers"] == "Retry-After, X-Request-ID"
        answer = client.options(GENERATIONS, headers={**question, "Origin": "https://b.example"})
        assert "access-control-allow-origin" not in answer.headers


def test_limits(generator: Generator) -> None:
    settings = ServerSettings(max_body_bytes=100, max_prompt_characters=10, max_images=2, max_steps=3)
    with TestClient(create_app(generator, settings)) as client:
        assert client.post(GENERATIONS, json={"prompt": "heart " * 20}).status_code == 413
        assert client.post(GENERATIONS, json={"prompt": "heart " * 3}).json()["error"]["param"] == "prompt"
        assert client.post(GENERATIONS, json={"prompt": "heart", "n": 3}).json()["error"]["param"] == "n"
        last = {"prompt": "heart", "n": 2, "seed": 2**64 - 1, "stream": True}
        assert client.post(GENERATIONS, json=last).json()["error"]["param"] == "seed"
        assert client.post(GENERATIONS, json={**last, "n": 1}).status_code == 200
        walk = {"prompts": ["heart"], "steps": 4}
        assert client.post("/v1/images/interpolations", json=walk).json()["error"]["param"] == "steps"


@pytest.mark.parametrize(
    "wrong", [{"concurrency": 0}, {"queue": -1}, {"max_images": 0}, {"max_steps": 1}, {"api_key": ""}, {"api_key": "é"}]
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        ServerSettings(**wrong)


def test_work_that_ends_with_the_server_is_finished_and_no_more_begins(held: HeldGenerator) -> None:
    app = create_app(held)
    with TestClient(app) as client, ThreadPoolExecutor() as pool:
        running = pool.submit(client.post, GENERATIONS, json=ASKED)
        wait_for(lambda: metrics(client)[("dmgan_in_flight",)] == 1)
        app.state.workers.draining = True
        refused = client.post(GENERATIONS, json=ASKED)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
        assert refused.headers["connection"] == "close"
        assert client.get("/health/ready").status_code == 503
        held.allowed.release(1000)
        assert running.result().status_code == 200


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (GENERATIONS, {**ASKED, "n": 10}),
        (GENERATIONS, {**ASKED, "n": 10, "stream": True, "partial_images": 3}),
        ("/v1/images/interpolations", {"prompts": ["heart"], "steps": 30}),
    ],
)
def test_work_stops_when_the_client_leaves(held: HeldGenerator, path: str, asked: dict[str, Any]) -> None:
    """Whatever it waits for: the first stage, the next, or a batch of a walk."""

    async def ask() -> None:
        left = asyncio.Event()
        messages = [{"type": "http.request", "body": json.dumps(asked).encode(), "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(_: dict[str, Any]) -> None:
            """As a server does for a client that has left: nothing."""

        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "root_path": ""}
        headers = [(b"content-type", b"application/json")]
        serving = asyncio.create_task(app({**scope, "headers": headers}, receive, send))
        held.allowed.release(2)
        while held.stages < 2:
            await asyncio.sleep(0.01)
        left.set()
        await asyncio.wait_for(serving, 10)
        held.allowed.release(1000)
        await app.state.workers.drain(10)

    app = create_app(held)
    asyncio.run(ask())
    assert 2 <= held.stages <= 3


def test_a_defect_is_500_without_its_details(
    held: HeldGenerator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(held, "stream", fail)
    with TestClient(create_app(held)) as client:
        answer = client.post(GENERATIONS, json=ASKED)
        assert (answer.status_code, "secret" in answer.text) == (500, False)
        assert answer.headers["x-content-type-options"] == "nosniff"
        (record,) = (each for each in caplog.records if each.getMessage() == "defect")
        line = json.loads(JsonLines().format(record))
        assert line["id"] == answer.headers["x-request-id"]
        assert "ZeroDivisionError: secret detail" in line["traceback"]
        assert metrics(client)[("dmgan_requests_total", GENERATIONS, "500")] == 1
        wait_for(lambda: metrics(client)[("dmgan_in_flight",)] == 0)


def test_a_defect_after_the_first_stage_breaks_the_answer_off(held: HeldGenerator) -> None:
    inner = held.stream

    def stream(*arguments: Any, **options: Any) -> Iterator[Generation]:
        yield next(inner(*arguments, **options))
        raise ZeroDivisionError

    held.stream = stream
    held.allowed.release()
    with TestClient(create_app(held)) as client:
        with pytest.raises(ZeroDivisionError):
            client.post(GENERATIONS, json={**ASKED, "stream": True, "partial_images": 1})
        assert metrics(client)[("dmgan_requests_total", GENERATIONS, "500")] == 1


def test_logs_are_json_lines_without_captions(generator: Generator, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dmgan"), TestClient(create_app(generator)) as client:
        answer = client.post(GENERATIONS, json=ASKED)
    record = next(each for each in caplog.records if each.getMessage() == "request")
    line = json.loads(JsonLines().format(record))
    assert line["id"] == answer.headers["x-request-id"]
    assert (line["method"], line["path"], line["status"], line["level"]) == ("POST", GENERATIONS, 200, "info")
    assert "heart" not in json.dumps(line)
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        failure = logging.LogRecord("x", logging.ERROR, "", 1, "it failed", None, (type(error), error, None))
    assert "two\nlines" in json.loads(JsonLines().format(failure))["traceback"]
