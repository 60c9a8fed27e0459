"""What `dmgan-serve` does: one process that serves, or several behind one socket."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from typing import Any

from prometheus_client.multiprocess import mark_process_dead
from starlette.applications import Starlette

from dmgan_runtime import EngineError, Generator, SettingsError
from dmgan_runtime.server.app import create_app
from dmgan_runtime.server.logs import log_json_lines
from dmgan_runtime.server.settings import ServerSettings
from dmgan_runtime.server.transport import Server, ServerConfig, Timeouts

_LOG = logging.getLogger("dmgan")
_BACKLOG = 2048
_SECONDS_TO_START = 5.0


@dataclass(frozen=True)
class ServeOptions:
    """What a serving process needs to know.

    Attributes:
        bundles: As `Generator.open` takes them.
        opening: Further arguments of `Generator.open`.
        settings: Of the application.
        timeouts: Of the connections.
    """

    bundles: Sequence[str | None]
    opening: Mapping[str, Any]
    settings: ServerSettings
    timeouts: Timeouts


def serve(options: ServeOptions, host: str, port: int, workers: int, report: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT, and finishes then what runs.

    Args:
        options: What is served.
        host: A name or an address of this machine.
        port: 0 takes any that is free.
        workers: How many processes.
        report: Told the address, and what is served there, once it listens; names are as untrusted bundles have them.

    Raises:
        DmganError: if a bundle cannot be opened.
        SettingsError: if nothing can listen there.
        EngineError: if a process fails as soon as it has begun.
    """
    log_json_lines()
    _exit_on_signals(os._exit)
    with _opened(options) as generators:
        app = create_app(generators, options.settings)
        names = ", ".join(f"{each.manifest.name} ({each.active})" for each in generators)
        listener = _listen(host, port)
        shown = f"[{host}]" if ":" in host else host
        report(f"http://{shown}:{listener.getsockname()[1]}/ serves {names}")
        if workers == 1:
            _run(app, listener, options.timeouts)
            return
    _supervise(options, listener, workers)


def _exit_on_signals(leave: Callable[[int], object]) -> None:
    """Uvicorn gives a signal back when it has stopped; before it has begun, there is nothing to lose.

    Args:
        leave: `os._exit` where nobody else has to be stopped. `sys.exit` raises an exception, and it would go on for
            ever if that is raised where Python ignores exceptions, as in a callback of an import.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: leave(0))


@contextmanager
def _opened(options: ServeOptions) -> Iterator[list[Generator]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Generator.open(bundle, **options.opening)) for bundle in options.bundles]


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have, such as a..b
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"cannot listen on {host}, port {port} ({reason}); pass another --host or --port"
        ) from error


def _run(app: Starlette, listener: socket.socket, timeouts: Timeouts, ending: Event | None = None) -> None:
    Server(ServerConfig(app, app.state.workers, timeouts), ending).run(sockets=[listener])


def _work(options: ServeOptions, listener: socket.socket, ending: Event) -> None:
    """A process of several, which ends when the one that started it has."""
    log_json_lines()
    _exit_on_signals(os._exit)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with _opened(options) as generators:
        _run(create_app(generators, options.settings), listener, options.timeouts, ending)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _supervise(options: ServeOptions, listener: socket.socket, workers: int) -> None:
    """Starts the processes, starts each again that ends, and at the end stops them all.

    Raises:
        EngineError: if one fails as soon as it has begun, and there is none that has served for longer.
    """
    _exit_on_signals(sys.exit)  # and stop them
    spawn = multiprocessing.get_context("spawn")
    ending = spawn.Event()
    begun: dict[SpawnProcess, float] = {}
    with tempfile.TemporaryDirectory(prefix="dmgan-metrics-") as metrics:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics
        try:
            while True:
                while len(begun) < workers:
                    process = spawn.Process(target=_work, args=(options, listener, ending), daemon=True)
                    process.start()
                    begun[process] = time.monotonic()
                wait([process.sentinel for process in begun])
                now = time.monotonic()
                served = any(each.is_alive() and now - start > _SECONDS_TO_START for each, start in begun.items())
                for process in [each for each in begun if not each.is_alive()]:
                    mark_process_dead(process.pid, metrics)  # type: ignore[no-untyped-call]
                    seconds = now - begun.pop(process)
                    if process.exitcode and process.exitcode > 0 and seconds < _SECONDS_TO_START and not served:
                        raise EngineError("a process failed as soon as it had begun; it said why above")
                    _LOG.warning(
                        "a process ended after %.0f s with %s; another takes its place", seconds, process.exitcode
                    )
                    if seconds < _SECONDS_TO_START:
                        time.sleep(1)  # so that one that cannot begin is not tried without a pause
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            ending.set()
            listener.close()  # so that the last process that closes it empties its queue
            for process in begun:
                process.terminate()
            end = time.monotonic() + options.timeouts.shutdown + _SECONDS_TO_START
            for process in begun:
                process.join(max(0, end - time.monotonic()))
                process.kill()
                process.join()
