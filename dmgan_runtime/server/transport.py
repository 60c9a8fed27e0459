"""Uvicorn with deadlines: for a request to arrive, for its answer to be taken, and for the server to stop."""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from multiprocessing.synchronize import Event

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from dmgan_runtime.server.errors import ApiError
from dmgan_runtime.server.workers import Workers

_LOG = logging.getLogger("dmgan")
_MOST_CONNECTIONS = 1000  # below the 1,024 files that a process may usually have open
_LONGEST_HEAD = 16 * 2**10
_LINGER_SECONDS = 5
_SETTLE_SECONDS = 0.2
_SO_ATTACH_FILTER = 26
_OTHERS_END_SECONDS = 1.0
_FIRST_REQUEST_SECONDS = 1.0


@dataclass(frozen=True)
class Timeouts:
    """Deadlines in seconds.

    Attributes:
        receive: For a whole request to arrive, from its first byte, or from the connection.
        answer: For the answer to be made and taken, from there on.
        idle: Between an answer and the next request of a connection. A proxy in front should keep its idle connections
            for less, or it sends a request into one that ends.
        shutdown: For the requests that run when the server is told to stop.
    """

    receive: int = 10
    answer: int = 300
    idle: int = 5
    shutdown: int = 30


class ServerConfig(uvicorn.Config):
    """How Uvicorn serves the application."""

    def __init__(self, app: ASGIApp, workers: Workers, timeouts: Timeouts) -> None:
        """Args:
        app: The application, or one in which it is mounted.
        workers: Its `state.workers`.
        timeouts: Of connections, and of the end.
        """
        super().__init__(
            app,
            http=DeadlineProtocol,
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            h11_max_incomplete_event_size=_LONGEST_HEAD,
            timeout_keep_alive=timeouts.idle,
            timeout_graceful_shutdown=timeouts.shutdown,
        )
        self.workers_of_app = workers
        self.timeouts = timeouts


class DeadlineProtocol(H11Protocol):
    """A connection that ends if its request does not arrive in time, or its answer is not taken in time.

    Uvicorn alone has a deadline only for the time between two requests.
    """

    config: ServerConfig
    _timer: asyncio.TimerHandle | None = None
    _heard = False
    receiving = True
    """Whether the next request, or the first, is still to come or on its way."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As asyncio has it, like the next two."""
        super().connection_made(transport)
        # Else an answer's second part waits for the client to acknowledge its first, which takes 40 ms. asyncio sees to
        # it where the listening socket names its protocol, and those of `socket.create_server` do not.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._set_deadline(self.config.timeouts.receive)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._heard = True
        super().data_received(data)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._set_deadline(None)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """The last byte of an answer has been written, but maybe not yet been taken."""
        super().on_response_complete()
        self._look()

    def send_400_response(self, msg: str) -> None:
        """No request line, or no request."""
        self._refuse(400, msg)

    def shutdown(self) -> None:
        """The server stops: a request that runs is finished, one that is still arriving is not."""
        if self.receiving:
            self._expire()
        else:
            super().shutdown()

    def _look(self) -> None:
        """Sets the deadline anew when a request begins to arrive, when it is there, and when it has its answer."""
        state = self.conn.their_state
        receiving = state is h11.SEND_BODY or (state is h11.IDLE and bool(self.conn.trailing_data[0]))
        if not receiving:
            self._set_deadline(self.config.timeouts.answer)
        elif not self.receiving:
            self._set_deadline(self.config.timeouts.receive)
        self.receiving = receiving

    def _set_deadline(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        if not self.receiving:
            if self.conn.their_state is h11.IDLE and not self.transport.get_write_buffer_size():
                return  # its answer was taken, and Uvicorn sees to the time between two requests
            _LOG.warning("a connection ended: its answer was not made or not taken in time")
            self.transport.abort()
        elif self._heard:
            self._refuse(408, "the request did not arrive in time")
        else:
            self._close()

    def _refuse(self, status: int, message: str) -> None:
        """Answers what did not reach the application, or not whole."""
        content = json.dumps(ApiError(status, message).body()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        answer = (
            h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode()),
            h11.Data(data=content),
            h11.EndOfMessage(),
        )
        with suppress(h11.LocalProtocolError):  # an answer has begun already
            for event in answer:
                self.transport.write(self.conn.send(event) or b"")
            _LOG.warning("a request was refused: %d, %s", status, message)
        self._close()

    def _close(self) -> None:
        self.transport.close()
        self._set_deadline(None)
        self._timer = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)


class Server(uvicorn.Server):
    """Uvicorn's server, which leaves nobody without an answer when it is told to stop."""

    config: ServerConfig

    def __init__(self, config: ServerConfig, ending: Event | None = None) -> None:
        """Args:
        config: How it serves.
        ending: Set when all processes that share the sockets end; None if there are no others.
        """
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuses new work, takes those who wait in the listen queue unless others do, and finishes what runs."""
        self.config.workers_of_app.draining = True
        if sys.platform != "win32":  # whose event loop does not tell who waits
            await self._leave(sockets or [])
        # Connections that nobody has read from yet get their answer. Closed unread, they would be reset.
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_REQUEST_SECONDS):
                while any(getattr(each, "receiving", False) for each in self.server_state.connections):
                    await asyncio.sleep(0.01)
        await super().shutdown(sockets)

    async def _leave(self, listeners: list[socket.socket]) -> None:
        for listener in listeners:
            asyncio.get_running_loop().remove_reader(listener)
        if self._ending and not await asyncio.to_thread(self._ending.wait, _OTHERS_END_SECONDS):
            return
        for listener in listeners:
            _begin_no_more(listener)
        await asyncio.sleep(_SETTLE_SECONDS)  # for connections whose handshake has begun
        for listener in listeners:
            await self._empty(listener)

    async def _empty(self, listener: socket.socket) -> None:
        """Accepts all who wait, and nobody from then on: closing the socket would reset them."""
        loop = asyncio.get_running_loop()
        accepted = []
        with suppress(OSError):  # nobody waits any more, or no more files can be opened
            while True:
                accepted.append(listener.accept()[0])
        for server in self.servers:
            server.close()
        listener.close()
        for connection in accepted:
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> DeadlineProtocol:
        return DeadlineProtocol(self.config, self.server_state, self.lifespan.state)


def _begin_no_more(listener: socket.socket) -> None:
    """Has the kernel drop requests for a connection, which are sent again a second later and refused then.

    Without this, one that arrives between the last `accept` and `close` would be reset; that may happen elsewhere than
    on Linux, and where a sandbox forbids filters.
    """
    if sys.platform != "linux":
        return
    load_flags, skip_unless_set, give_back = 0x30, 0x45, 0x06  # of classic BPF, whose packet is the TCP header here
    flags_at, syn, nothing, everything = 13, 0x02, 0, 0xFFFFFFFF
    program = b"".join(
        struct.pack("HBBI", *line)
        for line in (
            (load_flags, 0, 0, flags_at),
            (skip_unless_set, 0, 1, syn),
            (give_back, 0, 0, nothing),
            (give_back, 0, 0, everything),
        )
    )
    memory = ctypes.create_string_buffer(program, len(program))
    filter_program = struct.pack("HP", len(program) // 8, ctypes.addressof(memory))
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_program)
