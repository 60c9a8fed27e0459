"""A contender in a process of its own: its threads, its memory and its crashes stay there."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self

from dmgan_runtime.errors import DmganError, EngineError

_PATIENCE_S = 30


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
        # Spawned: a forked process would share the locks of engines that were imported here.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, factory, arguments))
        self._process.start()
        theirs.close()
        try:
            self._receive()
        except BaseException:
            self.close()
            raise

    @property
    def process_id(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    def call(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the object and waits for its result.

        Raises:
            DmganError: as the constructor.
        """
        try:
            self._connection.send((method, arguments))
        except OSError:
            raise self._ended() from None
        return self._receive()

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()  # which it sees as the end of its work
        self._process.join(_PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self) -> Any:
        try:
            error, value = self._connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if error is not None:
            raise error
        return value

    def _ended(self) -> EngineError:
        self._process.join(_PATIENCE_S)
        return EngineError(
            f"its process ended with exit code {self._process.exitcode} (-9 is often a lack of memory); try fewer"
            " images at once"
        )


def call_in_worker(function: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a function in a process of its own.

    Raises:
        DmganError: as `Worker`.
    """
    with Worker(_Function, function) as worker:
        return worker.call("run", *arguments)


class _Function:
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def run(self, *arguments: Any) -> Any:
        return self._function(*arguments)


def _serve(connection: Connection, factory: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends the connection
    target, refusal = _attempt(factory, arguments)
    connection.send((refusal, None))
    while refusal is None:
        try:
            method, arguments = connection.recv()
        except (EOFError, OSError):
            break
        value, error = _attempt(getattr(target, method), arguments)
        connection.send((error, value))


def _attempt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, DmganError | None]:
    try:
        return function(*arguments), None
    except DmganError as error:
        return None, error
    except Exception as error:  # noqa: BLE001 - whatever an engine raises is an answer; a benchmark goes on without it
        return None, EngineError(f"{type(error).__name__}: {_first_lines(error)}")


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
