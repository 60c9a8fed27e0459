"""The application on Ray Serve: two nodes, of which one is lost under load."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image

from dmgan_runtime import Generator, SettingsError
from tests.ray_cluster import ENVIRONMENT, running_cluster

if importlib.util.find_spec("ray") is None or importlib.util.find_spec("fastapi") is None:
    pytest.skip("Ray Serve is not installed; `make test-hosts` does it", allow_module_level=True)

CLIENTS = 4
SEEDS = range(8)


@contextmanager
def serve_run(folder: Path, address: str, bundle: Path) -> Iterator[str]:
    """`serve run` with a file that asks for two replicas; the address of the application once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = {
        "proxy_location": "HeadOnly",  # a second proxy would want the same port of this machine
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": "dmgan",
                "import_path": "dmgan_runtime.server.ray:app",
                "args": {"bundles": str(bundle)},
                "deployments": [{"name": "dmgan", "autoscaling_config": {"min_replicas": 2, "max_replicas": 2}}],
            }
        ],
    }
    (folder / "serve.yaml").write_text(json.dumps(config))  # JSON is YAML
    command = [sys.executable, "-m", "ray.serve.scripts", "run", "--address", address, "serve.yaml"]
    log = folder / "serve.log"
    with log.open("w") as said:
        process = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=said, stderr=said)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while not answers(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    with suppress(httpx2.ConnectError):
        return httpx2.get(f"{url}/health/ready", timeout=60).status_code == 200
    return False


class Load:
    """Clients who ask again and again, each for one picture at a time, and ask anew where they got an error."""

    def __init__(self, url: str, expected: dict[int, bytes]) -> None:
        self.answers = 0
        self.errors: list[int] = []
        self._url, self._expected = url, expected
        self._lock, self._stopped = threading.Lock(), threading.Event()

    def ask(self, seed: int) -> None:
        with httpx2.Client(timeout=60) as client:
            while not self._stopped.is_set():
                answer = client.post(f"{self._url}/v1/images/generations", json={"prompt": "red heart", "seed": seed})
                if answer.status_code != 200:
                    with self._lock:
                        self.errors.append(answer.status_code)
                    continue
                assert pixels(answer.json()["data"][0]["b64_json"]) == self._expected[seed]
                with self._lock:
                    self.answers += 1
                seed = (seed + 1) % len(SEEDS)

    def wait_for(self, more: int) -> None:
        wanted, deadline = self.answers + more, time.monotonic() + 60
        while self.answers < wanted:
            assert time.monotonic() < deadline, (self.answers, self.errors)
            time.sleep(0.01)

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(CLIENTS) as clients:
            asked = [clients.submit(self.ask, seed) for seed in range(CLIENTS)]
            try:
                yield
            finally:
                self._stopped.set()
            for each in asked:
                each.result()


def pixels(b64_json: str) -> bytes:
    with Image.open(io.BytesIO(base64.b64decode(b64_json))) as picture:
        return np.asarray(picture).tobytes()


def test_a_lost_node_loses_what_ran_on_it_alone(bundle: Path, generator: Generator, tmp_path: Path) -> None:
    expected = {seed: np.asarray(generator.generate("red heart", seed=seed)[0].image).tobytes() for seed in SEEDS}
    # With one CPU each, two replicas are on two nodes. A proxy would rather ask the one on its own.
    with (
        running_cluster(RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING="0") as cluster,
        serve_run(tmp_path, cluster.address, bundle) as url,
    ):
        assert httpx2.get(f"{url}/v1/models").json()["data"][0]["id"] == "tiny"
        load = Load(url, expected)
        with load.running():
            replicas: set[str] = set()
            while len(replicas) < 2:  # When each made its first picture; no two did at the same moment.
                load.wait_for(5)
                replicas |= set(re.findall(r"dmgan_images_created.*", httpx2.get(f"{url}/metrics", timeout=60).text))
            assert not load.errors
            cluster.lose_node()
            load.wait_for(200)
        assert len(load.errors) <= CLIENTS  # a client has one request under way
        assert set(load.errors) <= {500, 503}
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
            events = list(
                client.images.generate(prompt="red heart", stream=True, partial_images=2, extra_body={"seed": 3})
            )
            assert len(events) == 3
            assert pixels(events[-1].b64_json) == expected[3]
            with pytest.raises(openai.BadRequestError, match="no word of the caption"):
                client.images.generate(prompt="zebra")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's use of pydantic
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bundle": "birds"}, "the argument 'bundle' is unknown; there are bundles, backend"),
        ({"concurrency": "many"}, "an argument is wrong: .*concurrency"),
        ({"concurrency": "0"}, "concurrency is 0"),
    ],
)
def test_a_mistake_is_named(arguments: dict[str, str], message: str) -> None:
    from dmgan_runtime.server.ray import app

    with pytest.raises(SettingsError, match=message):
        app(arguments)
