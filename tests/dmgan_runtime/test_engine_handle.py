from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from types import FrameType
from typing import Any

import numpy as np
import pytest

from dmgan_runtime import EngineError, engine_handle
from dmgan_runtime.backends.base import Backend, busy_at_fork
from dmgan_runtime.engine_handle import EngineHandle
from dmgan_runtime.graphs import IMAGE
from dmgan_runtime.request import Batch
from dmgan_runtime.tokenizer import Tokens
from tests.dmgan_runtime.forks import in_fork, needs_fork
from tests.dmgan_runtime.stand_ins import StandInBackend

TIMEOUT = 20


def never() -> Backend:
    raise AssertionError("it was opened again")


def use_up(backend: Backend) -> None:
    """Makes an image, which a closed stand-in refuses."""
    one = np.ones((1, 1))
    list(backend.generate(Batch(Tokens(one, one[0]), one, one), 1, IMAGE))  # type: ignore[arg-type]


def in_thread(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def test_closing_waits_for_a_run_and_frees_once() -> None:
    backend, running, go_on = StandInBackend(), threading.Event(), threading.Event()
    handle = EngineHandle(backend, never)  # type: ignore[arg-type]

    def use() -> None:
        with handle.use() as lent:
            running.set()
            assert go_on.wait(TIMEOUT)
            use_up(lent)

    user = in_thread(use)
    assert running.wait(TIMEOUT)
    closers = [in_thread(handle.close) for _ in range(3)]
    closers[0].join(0.1)
    assert closers[0].is_alive()
    assert backend.closed == 0
    go_on.set()
    for thread in (user, *closers):
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert backend.closed == 1
    with pytest.raises(EngineError, match="this generator is closed"), handle.use():
        pass


def test_closing_returns_when_all_is_freed() -> None:
    """Also where the user that ends last does it: the next engine may need the memory."""

    class SlowBackend(StandInBackend):
        def close(self) -> None:
            freeing.set()
            assert go_on.wait(TIMEOUT)
            super().close()

    backend, using, freeing, go_on = SlowBackend(), threading.Event(), threading.Event(), threading.Event()
    handle, ended = EngineHandle(backend, never), threading.Event()  # type: ignore[arg-type]

    def use() -> None:
        with handle.use():
            using.set()
            assert ended.wait(TIMEOUT)

    user = in_thread(use)
    assert using.wait(TIMEOUT)
    closer = in_thread(handle.close)
    while not handle.closed:
        pass
    ended.set()
    assert freeing.wait(TIMEOUT)
    closer.join(0.2)
    assert closer.is_alive()
    go_on.set()
    for thread in (user, closer):
        thread.join(TIMEOUT)
    assert backend.closed == 1


def test_a_signal_handler_may_close_what_it_interrupts() -> None:
    """It runs in the thread of the run, and waiting for that would be for ever."""
    backend = StandInBackend()
    handle = EngineHandle(backend, never)  # type: ignore[arg-type]
    with handle.use() as lent:
        handle.close()
        assert backend.closed == 0
        use_up(lent)
    assert backend.closed == 1


def test_a_use_that_fails_ends() -> None:
    backend = StandInBackend()
    handle = EngineHandle(backend, never)  # type: ignore[arg-type]

    def fail() -> None:
        with pytest.raises(ZeroDivisionError), handle.use():
            raise ZeroDivisionError

    in_thread(fail).join(TIMEOUT)
    handle.close()
    assert backend.closed == 1


def use_until(handle: EngineHandle, line: int) -> bool:
    """Whether a use has so many lines; if so, an error comes before the last of them.

    A line that comes again is the end of a `with`, where Python runs no handler.
    """
    seen: set[int] = set()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != engine_handle.__file__:
            return None
        if event == "line" and frame.f_lineno not in seen:
            seen.add(frame.f_lineno)
            if len(seen) == line:
                raise ZeroDivisionError
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with handle.use():
            pass
    except ZeroDivisionError:
        return True
    finally:
        sys.settrace(before)
    return False


def test_a_use_that_is_interrupted_between_any_two_lines_keeps_nobody_waiting() -> None:
    """As by a signal's handler that raises."""
    for line in count(1):
        backend = StandInBackend()
        handle = EngineHandle(backend, never)  # type: ignore[arg-type]
        interrupted = use_until(handle, line)
        closer = in_thread(handle.close)
        closer.join(TIMEOUT)
        assert not closer.is_alive()
        assert backend.closed == 1
        if not interrupted:
            break
    assert line > 10


@needs_fork
def test_a_child_knows_which_engines_were_at_work() -> None:
    handles = []
    for name in ("idle engine", "busy engine"):
        backend = StandInBackend()
        backend.active = replace(backend.active, backend=name)
        handles.append(EngineHandle(backend, never))  # type: ignore[arg-type]

    def look() -> None:
        assert busy_at_fork == {"busy engine"}

    with handles[1].use():
        in_fork(look)
    assert not busy_at_fork


def test_32_threads_and_a_close_never_meet() -> None:
    for _ in range(2):
        backend = StandInBackend()
        handle = EngineHandle(backend, never)  # type: ignore[arg-type]

        def use(handle: EngineHandle = handle) -> int:
            runs = 0
            try:
                while True:
                    with handle.use() as lent:
                        use_up(lent)
                    runs += 1
            except EngineError:
                return runs

        with ThreadPoolExecutor(32) as pool:
            users = [pool.submit(use) for _ in range(32)]
            handle.close()
            assert all(user.result(TIMEOUT) >= 0 for user in users)
        assert backend.closed == 1


@needs_fork
def test_after_a_fork_the_inherited_engine_is_left_alone() -> None:
    inherited, fresh = StandInBackend(), StandInBackend()
    handle = EngineHandle(inherited, lambda: fresh)  # type: ignore[arg-type,return-value]

    def use() -> None:
        with handle.use() as lent:
            assert lent is fresh
        handle.close()
        assert (inherited.closed, fresh.closed) == (0, 1)

    in_fork(use)
    with handle.use() as lent:
        assert lent is inherited


@needs_fork
def test_after_a_fork_a_closed_engine_stays_closed_whatever_its_parent_was_doing() -> None:
    """A thread that was freeing the engine is not there in the fork, and does not go on."""

    class SlowBackend(StandInBackend):
        def close(self) -> None:
            freeing.set()
            assert go_on.wait(TIMEOUT)

    freeing, go_on = threading.Event(), threading.Event()
    handle = EngineHandle(SlowBackend(), never)  # type: ignore[arg-type]

    def use() -> None:
        with pytest.raises(EngineError, match="closed"), handle.use():
            pass

    closer = in_thread(handle.close)
    assert freeing.wait(TIMEOUT)
    in_fork(use)
    go_on.set()
    closer.join(TIMEOUT)
    in_fork(use)
