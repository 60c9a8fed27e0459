"""A contender in a process of its own: its threads, its memory and its crashes stay there."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Self

from dmgan_runtime.errors import DmganError, EngineError

_target: Any = None  # in the worker's process


class Worker:
    """An object that lives in another process, and whose methods are called from here."""

    def __init__(self, factory: Callable[..., object], *arguments: Any) -> None:
        """Starts the process and makes the object.

        Args:
            factory: Importable, as it is called in a new interpreter.
            arguments: Its arguments.

        Raises:
            DmganError: what the factory raised; another error, or the process's end, becomes an `EngineError`.
        """
        # Spawned: a forked process would share the locks of engines that were imported here. Ctrl-C is for the parent.
        self._pool = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
        )
        try:
            self.run(_make_target, factory, *arguments)
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the object and waits for its result; raises as the constructor."""
        return self.run(_call_target, method, *arguments)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls an importable function in the process and waits for its result; raises as the constructor."""
        try:
            return self._pool.submit(_attempt, function, *arguments).result()
        except BrokenProcessPool:
            raise EngineError(
                "its process was killed or crashed, often for lack of memory; try fewer images at once"
            ) from None

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def call_in_worker(function: Callable[..., Any], *arguments: Any) -> Any:
    """Runs an importable function in a process of its own; raises as `Worker`."""
    with Worker(object) as worker:
        return worker.run(function, *arguments)


def _make_target(factory: Callable[..., object], *arguments: Any) -> None:
    global _target
    _target = factory(*arguments)


def _call_target(method: str, *arguments: Any) -> Any:
    return getattr(_target, method)(*arguments)


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except DmganError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever an engine raises is an answer; not all of it can be sent
        raise EngineError(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}") from None
