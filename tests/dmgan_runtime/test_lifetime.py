from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dmgan_runtime import EngineError
from dmgan_runtime.backends.base import Active, Backend
from dmgan_runtime.lifetime import SharedEngine

TIMEOUT = 20


class CountingBackend:
    """Notes when it is closed, and whether it is used afterwards."""

    active = Active("counting", "1", "cpu", "fp32", 1, reason="a test asked for it")

    def __init__(self) -> None:
        self.closed = 0

    def run(self, *_: Any) -> dict[str, Any]:
        assert not self.closed
        return {}

    def to_host(self, tensor: Any) -> Any:
        return tensor

    def close(self) -> None:
        self.closed += 1


def never() -> Backend:
    raise AssertionError("it was opened again")


def in_thread(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def test_closing_waits_for_a_run_and_frees_once() -> None:
    backend, running, go_on = CountingBackend(), threading.Event(), threading.Event()
    engine = SharedEngine(backend, never)  # type: ignore[arg-type]

    def use() -> None:
        with engine.lease() as lent:
            running.set()
            assert go_on.wait(TIMEOUT)
            lent.run("text_encoder", {}, ())

    user = in_thread(use)
    assert running.wait(TIMEOUT)
    closers = [in_thread(engine.close) for _ in range(3)]
    closers[0].join(0.1)
    assert closers[0].is_alive()
    assert backend.closed == 0
    go_on.set()
    for thread in (user, *closers):
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert backend.closed == 1
    with pytest.raises(EngineError, match="this generator is closed"), engine.lease():
        pass


def test_a_signal_handler_may_close_what_it_interrupts() -> None:
    """It runs in the thread of the run, and waiting for that would be for ever."""
    backend = CountingBackend()
    engine = SharedEngine(backend, never)  # type: ignore[arg-type]
    with engine.lease() as lent:
        engine.close()
        assert backend.closed == 0
        lent.run("text_encoder", {}, ())
    assert backend.closed == 1


def test_a_run_that_fails_gives_its_lease_back() -> None:
    backend = CountingBackend()
    engine = SharedEngine(backend, never)  # type: ignore[arg-type]

    def fail() -> None:
        with pytest.raises(ZeroDivisionError), engine.lease():
            raise ZeroDivisionError

    in_thread(fail).join(TIMEOUT)
    engine.close()
    assert backend.closed == 1


def test_32_threads_and_a_close_never_meet() -> None:
    for _ in range(2):
        backend = CountingBackend()
        engine = SharedEngine(backend, never)  # type: ignore[arg-type]

        def use(engine: SharedEngine = engine) -> int:
            runs = 0
            try:
                while True:
                    with engine.lease() as lent:
                        lent.run("text_encoder", {}, ())
                    runs += 1
            except EngineError:
                return runs

        with ThreadPoolExecutor(32) as pool:
            users = [pool.submit(use) for _ in range(32)]
            engine.close()
            assert all(user.result(TIMEOUT) >= 0 for user in users)
        assert backend.closed == 1


def test_after_a_fork_the_inherited_engine_is_left_alone() -> None:
    inherited, fresh = CountingBackend(), CountingBackend()
    engine = SharedEngine(inherited, lambda: fresh)  # type: ignore[arg-type,return-value]
    with engine._changed:
        in_thread(engine.close)  # a lock that another thread held stays locked in the fork
        engine.after_fork()
        with engine.lease() as lent:
            assert lent is fresh
    engine.close()
    assert (inherited.closed, fresh.closed) == (0, 1)


def test_after_a_fork_a_closed_engine_stays_closed() -> None:
    engine = SharedEngine(CountingBackend(), never)  # type: ignore[arg-type]
    engine.close()
    engine.after_fork()
    with pytest.raises(EngineError, match="closed"), engine.lease():
        pass
