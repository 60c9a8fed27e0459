"""An object in another process: its results, its errors and its end reach this one."""

import os

import pytest

from benchmarks.worker import Worker, call_in_worker
from dmgan_runtime.errors import BackendError, EngineError


class Target:
    def __init__(self, start: int) -> None:
        if start < 0:
            raise BackendError("no such device")
        self.value = start

    def add(self, number: int) -> int:
        self.value += number
        return self.value

    def process_id(self) -> int:
        return os.getpid()

    def refuse(self) -> None:
        raise BackendError("not here")

    def stumble(self) -> None:
        raise ValueError("a\n long   story")

    def die(self) -> None:
        os._exit(9)


@pytest.fixture(scope="module")
def worker():
    with Worker(Target, 1) as opened:
        yield opened


def test_it_keeps_its_state_in_another_process(worker) -> None:
    before = worker.call("add", 0)
    assert worker.call("add", 2) == before + 2
    assert worker.call("process_id") == worker.call("process_id") != os.getpid()


def test_an_error_of_ours_comes_as_it_is_and_the_worker_goes_on(worker) -> None:
    with pytest.raises(BackendError, match="not here"):
        worker.call("refuse")
    assert isinstance(worker.call("add", 0), int)


def test_another_error_becomes_the_engines(worker) -> None:
    with pytest.raises(EngineError, match="ValueError: a long story"):
        worker.call("stumble")


def test_what_the_factory_raises_is_raised_here() -> None:
    with pytest.raises(BackendError, match="no such device"):
        Worker(Target, -1)


def test_a_crash_is_an_error_and_not_the_end() -> None:
    with Worker(Target, 1) as worker, pytest.raises(EngineError, match="was killed or crashed"):
        worker.call("die")


def test_a_function_runs_in_a_process_of_its_own() -> None:
    assert call_in_worker(os.getpid) != os.getpid()
