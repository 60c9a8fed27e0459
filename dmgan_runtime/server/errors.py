"""Errors in the shape of OpenAI's protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from dmgan_runtime import CaptionError, DmganError, SettingsError

_DISCARD_SECONDS = 5
CLIENT_GONE = 499
"""The status in logs and metrics of a request whose client left; nobody receives it."""


class ApiError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: Of the answer.
        message: What is wrong, and what to do next.
        param: The parameter of the request that is at fault.
        code: A word for programs.
        headers: More headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers

    def response(self) -> Response:
        """The answer."""
        return JSONResponse(self.body(), self.status, self.headers)

    def body(self) -> dict[str, object]:
        """The answer's content."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class TooLongError(ApiError):
    """A request whose body is longer than it may be, as its head says already."""

    def __init__(self, message: str) -> None:
        super().__init__(413, message, headers={"Connection": "close"})

    def response(self) -> Response:
        """The answer, which is sent before the body has come."""
        return _BeforeTheBody(self.body(), self.status, self.headers)


class _BeforeTheBody(JSONResponse):
    """An answer that is there at once, and ends when the body does.

    What still comes is thrown away for a while: a connection that is closed over unread bytes is reset, and its client
    may never see the answer.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                while (await receive()).get("more_body", False):
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def stopping() -> ApiError:
    """What is answered while the server stops."""
    headers = {"Retry-After": "1", "Connection": "close"}
    return ApiError(503, "the server is stopping; ask again, and another one answers", code="stopping", headers=headers)


def defect() -> ApiError:
    """What is answered to what nobody foresaw, whose details are for the log alone."""
    return ApiError(500, "the server failed; its log says how", code="internal_error")


def of_runtime(error: DmganError) -> ApiError:
    """What the runtime says, as an answer."""
    if isinstance(error, CaptionError):
        return ApiError(400, str(error), param="prompt", code="invalid_prompt")
    if isinstance(error, SettingsError):
        return ApiError(400, str(error), code="invalid_value")
    return ApiError(500, str(error), code="engine_error")


async def answer_api_error(_: Request, error: Exception) -> Response:
    """For Starlette's table of exceptions."""
    assert isinstance(error, ApiError)
    return error.response()


async def answer_runtime_error(_: Request, error: Exception) -> Response:
    """For Starlette's table of exceptions."""
    assert isinstance(error, DmganError)
    return of_runtime(error).response()


async def answer_http_error(request: Request, error: Exception) -> Response:
    """For Starlette's table of exceptions: what its router and its files refuse."""
    assert isinstance(error, HTTPException)
    said = {
        404: "there is nothing at this path; images are made by POST /v1/images/generations",
        405: f"{request.method} is not for this path",
    }
    return ApiError(error.status_code, said.get(error.status_code, error.detail), headers=error.headers).response()
