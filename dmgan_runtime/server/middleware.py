"""What requests go through before their route, and before those that need a key."""

from __future__ import annotations

import hmac
import logging
import secrets
import time

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dmgan_runtime.server.errors import CLIENT_GONE, ApiError, defect
from dmgan_runtime.server.metrics import Metrics

_LOG = logging.getLogger("dmgan")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    # The page asks nobody but this server, and a defect in it could not make it do so.
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; base-uri 'none'",
    ),
]


class Watch:
    """Gives every request a name, counts and logs it, refuses those that are no proper requests, and answers defects.

    A defect is answered here, and not by Starlette, whose own place for it is outside of this: the answer would have no
    name by which to find the defect in the log.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        name = secrets.token_hex(8)
        status = CLIENT_GONE

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", name.encode()), *_HEADERS]
            await send(message)

        try:
            refusal = _refusal(scope)
            await (refusal.response() if refusal else self._app)(scope, receive, send_named)
        except Exception:  # what nobody foresaw, of any class
            _LOG.exception("defect", extra={"fields": {"id": name}})
            if status != CLIENT_GONE:  # an answer has begun, and the host is to break it off
                status = 500
                raise
            await defect().response()(scope, receive, send_named)
        finally:
            seconds = time.perf_counter() - start
            path = route.path if isinstance(route := scope.get("route"), Route) else "other"
            self._metrics.requests.labels(path, status).inc()
            self._metrics.request_seconds.labels(path).observe(seconds)
            client = scope.get("client")
            _LOG.info(
                "request",
                extra={
                    "fields": {
                        "id": name,
                        "method": scope["method"],
                        "path": scope["path"],
                        "status": status,
                        "milliseconds": round(1000 * seconds, 3),
                        "client": client and client[0],
                    }
                },
            )


def _refusal(scope: Scope) -> ApiError | None:
    """What no route is to see."""
    if not scope["path"].startswith("/") or "\0" in scope["path"]:
        return ApiError(400, "the request line has no path")
    if {b"transfer-encoding", b"content-length"} <= {name for name, _ in scope["headers"]}:
        # A proxy that goes by the other header takes the rest of the body for the next request (RFC 9112, 6.1).
        return ApiError(
            400, "Transfer-Encoding and Content-Length came together; send one", headers={"Connection": "close"}
        )
    return None


class RequireKey:
    """Asks for the API key before a route.

    It is told which by the router, not by the request's path: hosts write an application's root path into that in
    several ways.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        given = dict(scope["headers"]).get(b"authorization", b"")
        if hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
            return
        refusal = ApiError(
            401,
            "the API key is missing or wrong; send it as Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await refusal.response()(scope, receive, send)
