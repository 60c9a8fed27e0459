"""What happens to a generator in other processes, and to memory: seen from outside, in processes of their own."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from dmgan_runtime import BundleError, EngineError, Generator
from tests.bundles import SPEC, WORDS, build_bundle
from tests.dmgan_runtime.forks import needs_fork

CAPTION = "a small red heart"

FORK = """
import hashlib, os, sys, threading
from dmgan_runtime import Generator

generator = Generator.open(sys.argv[1], threads=2)
digest = lambda: hashlib.sha256(generator.generate("a small red heart", seed=1)[0].image.tobytes()).hexdigest()
stop = threading.Event()

def busy():
    while not stop.is_set():
        digest()

threads = [threading.Thread(target=busy) for _ in range(4)]
for thread in threads:
    thread.start()
codes = []
for child in range(6):
    pid = os.fork()
    if not pid:
        same = digest() == sys.argv[2]
        if child % 2:
            generator.close()
        sys.exit(7 if same else 1)  # the way that hangs if an inherited engine is freed
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
stop.set()
for thread in threads:
    thread.join()
print(codes, digest() == sys.argv[2])
"""

FORK_WITH_STREAM = """
import os, sys
from dmgan_runtime import EngineError, Generator

generator = Generator.open(sys.argv[1], threads=2)
stream = generator.stream("a small red heart", seed=1)
next(stream)
if not os.fork():
    try:
        next(stream)
    except EngineError as error:
        print(error)
    sys.exit(0)
os.wait()
print(len(list(stream)))
"""

FORK_WITHOUT_BUNDLE = """
import os, shutil, sys
from dmgan_runtime import BundleError, Generator

generator = Generator.open(sys.argv[1], threads=1)
shutil.rmtree(sys.argv[1])
if len(sys.argv) > 2:
    shutil.move(sys.argv[2], sys.argv[1])
if not os.fork():
    try:
        generator.generate("a small red heart")
    except BundleError as error:
        print(error)
    sys.exit(0)
os.wait()
generator.generate("a small red heart")
"""

SPAWN = """
import hashlib, multiprocessing, sys
from dmgan_runtime import Generator

def digest(generator):
    return hashlib.sha256(generator.generate("a small red heart", seed=1)[0].image.tobytes()).hexdigest()

if __name__ == "__main__":
    with Generator.open(sys.argv[1], threads=1) as generator:
        for method in ("spawn", "fork"):
            with multiprocessing.get_context(method).Pool(2) as pool:
                print(pool.map(digest, [generator] * 3) == [sys.argv[2]] * 3)
"""

GUNICORN = """
import os
from dmgan_runtime import Generator

generator = Generator.open(os.environ["BUNDLE"], threads=2)
generator.generate("a small red heart")  # the engine is at work before the fork

def app(environ, start_response):
    image = generator.generate("a small red heart", seed=1)[0].image
    start_response("200 OK", [("X-Process", str(os.getpid()))])
    return [image.tobytes()]
"""

CYCLES = """
import json, os, sys
from dmgan_runtime import Generator

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

closed, opened = [], []
for _ in range(4):
    with Generator.open(sys.argv[1], threads=2) as generator:
        generator.generate("a small red heart", seed=1)
        opened.append(resident())
    closed.append(resident())
print(json.dumps([opened, closed]))
"""


def python(program: str, *arguments: object) -> str:
    # Python 3.12 and later warn of any fork beside threads; that it works nevertheless is what these tests show.
    command = [sys.executable, "-W", "error", "-W", "ignore:.*fork:DeprecationWarning", "-c", program]
    result = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60, cwd=Path.cwd()
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def picture(generator: Generator) -> str:
    return hashlib.sha256(generator.generate(CAPTION, seed=1)[0].image.tobytes()).hexdigest()


@needs_fork
def test_a_fork_generates_the_same_and_ends(bundle: Path, picture: str) -> None:
    assert python(FORK, bundle, picture) == f"{[7] * 6} True\n"


@needs_fork
def test_a_stream_ends_at_a_fork_and_goes_on_where_it_was_begun(bundle: Path) -> None:
    message = "this stream was begun before the process was forked; begin another one here"
    assert python(FORK_WITH_STREAM, bundle) == f"{message}\n2\n"


@needs_fork
def test_a_fork_whose_bundle_is_gone_says_so(own_bundle: Path) -> None:
    assert "no such bundle" in python(FORK_WITHOUT_BUNDLE, own_bundle)


@needs_fork
def test_a_fork_never_generates_with_another_bundle(own_bundle: Path, tmp_path: Path) -> None:
    other = build_bundle(tmp_path / "other", words=(*WORDS, "zebra"))
    assert "the bundle 'tiny' was replaced after it was opened" in python(FORK_WITHOUT_BUNDLE, own_bundle, other)


@needs_fork
def test_gunicorn_serves_what_it_loaded_before_it_forked(bundle: Path, picture: str, tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(GUNICORN)
    command = [sys.executable, "-W", "ignore", "-m", "gunicorn", "served:app", "--preload", "--workers", "2"]
    environment = os.environ | {"BUNDLE": str(bundle), "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    # It listens before the server is there, so that those who come first wait for it.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = subprocess.Popen(
            [*command, "--bind", f"fd://{listening.fileno()}"],
            pass_fds=[listening.fileno()],
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        answers: list[tuple[str, str | None]] = []
        try:
            first, second = (http.client.HTTPConnection(*listening.getsockname(), timeout=60) for _ in range(2))
            first.connect()  # it says nothing yet, and so keeps one of the workers from taking the second
            for connection in (second, first):
                connection.request("GET", "/")
                answer = connection.getresponse()
                answers.append((hashlib.sha256(answer.read()).hexdigest(), answer.headers["X-Process"]))
                connection.close()
        finally:
            server.terminate()
            _, errors = server.communicate(timeout=20)  # workers that cannot end would be waited for
    assert [made for made, _ in answers] == [picture] * 2, errors
    assert len({process for _, process in answers}) == 2
    assert (server.returncode, "SIGKILL" in errors) == (0, False), errors


def test_a_pool_of_processes_takes_a_generator(bundle: Path, picture: str, tmp_path: Path) -> None:
    (tmp_path / "spawn.py").write_text(SPAWN)
    command = [sys.executable, str(tmp_path / "spawn.py"), str(bundle), picture]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert (result.stdout, result.returncode) == ("True\nTrue\n", 0), result.stderr


def test_a_pickle_is_a_path_and_opens_again(bundle: Path, generator: Generator, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(bundle.parent)
    with Generator.open(bundle.name, threads=1) as first:
        content = pickle.dumps(first)
    assert len(content) < 1000
    monkeypatch.chdir(tmp_path)
    with pickle.loads(content) as second:
        assert second.active == first.active
        image = second.generate(CAPTION, seed=1)[0].image
    assert image.tobytes() == generator.generate(CAPTION, seed=1)[0].image.tobytes()


def test_a_closed_generator_is_not_pickled(bundle: Path) -> None:
    with Generator.open(bundle, threads=1) as generator:
        pass
    with pytest.raises(EngineError, match="this generator is closed"):
        pickle.dumps(generator)


def test_a_pickle_of_a_bundle_that_is_gone_says_so(own_bundle: Path) -> None:
    with Generator.open(own_bundle, threads=1) as generator:
        content = pickle.dumps(generator)
    own_bundle.rename(own_bundle.with_name("elsewhere"))
    with pytest.raises(BundleError, match="no such bundle"):
        pickle.loads(content)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_released_on_close(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(SPEC, base_resolution=32, generator_channels=64, noise_features=128)  # 36 MB
    opened, closed = json.loads(python(CYCLES, build_bundle(tmp_path / "large", spec=spec)))
    assert min(opened) > closed[1] + 20
    assert max(closed[2:]) < closed[1] + 8
