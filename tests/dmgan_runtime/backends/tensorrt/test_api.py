from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dmgan_runtime.backends.tensorrt.api import new_log, without_garbage_collection
from tests.dmgan_runtime.backends.fake_cuda import FakeCuda
from tests.dmgan_runtime.backends.fakes import fake_tensorrt


def test_the_collector_is_off_for_every_thread_until_its_block_ends() -> None:
    """The second thread comes while the collector is off, and must not see it turned on when the first one leaves."""
    first_is_in, second_is_in, first_is_out = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with without_garbage_collection():
            first_is_in.set()
            second_is_in.wait(timeout=0.2)  # it cannot be
        first_is_out.set()

    def second() -> bool:
        with without_garbage_collection():
            second_is_in.set()
            first_is_out.wait()
            return gc.isenabled()

    with ThreadPoolExecutor(2) as pool:
        pool.submit(first)
        first_is_in.wait()
        assert not gc.isenabled()
        assert not pool.submit(second).result()
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with pytest.raises(KeyError), without_garbage_collection():
            raise KeyError
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_log_keeps_the_last_errors_and_nothing_else() -> None:
    module = fake_tensorrt(FakeCuda())
    log = new_log(module)
    log.log(module.ILogger.Severity.WARNING, "nothing")
    for number in range(20):
        log.log(module.ILogger.Severity.ERROR, f" error {number} \n")
    assert list(log.errors) == list(log.of_thread.errors) == [f"error {number}" for number in range(12, 20)]


def test_a_log_knows_which_thread_an_error_came_from() -> None:
    module = fake_tensorrt(FakeCuda())
    log = new_log(module)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(log.log, module.ILogger.Severity.ERROR, "of another").result()
    assert (list(log.errors), list(log.of_thread.errors)) == (["of another"], [])
