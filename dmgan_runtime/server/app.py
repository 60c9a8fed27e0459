"""The application: its routes, and what every request goes through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from dmgan_runtime import DmganError, Generator
from dmgan_runtime.server import errors
from dmgan_runtime.server.images import Images, answer_nobody
from dmgan_runtime.server.metrics import Metrics
from dmgan_runtime.server.middleware import RequireKey, Watch
from dmgan_runtime.server.models import Models
from dmgan_runtime.server.settings import ServerSettings
from dmgan_runtime.server.workers import Workers

_STATIC = Path(__file__).parent / "static"
_WEB = Path(__file__).parents[1] / "web"
_DRAIN_SECONDS = 5
_ASK_AGAIN = {"Cache-Control": "no-cache"}


def create_app(generators: Generator | Sequence[Generator], settings: ServerSettings | None = None) -> Starlette:
    """Makes the application.

    It opens and closes nothing: close the generators when the host has ended. Where a host runs its lifespan, the
    self-test begins at once and work is finished at the end; mounted under another application, which runs no lifespan
    of its own for it, the self-test begins when `/health/ready` is first asked.

    Args:
        generators: One, or several of different names; the first serves requests that name no model.
        settings: Limits; None takes the defaults.

    Returns:
        An ASGI application. `app.state.workers.draining = True` refuses new work.

    Raises:
        SettingsError: if two bundles have one name, or there is none.
    """
    settings = settings or ServerSettings()
    models = Models([generators] if isinstance(generators, Generator) else generators, settings)
    metrics = Metrics()
    for name, generator in models.items():
        metrics.describe(name, generator)
    workers = Workers(settings.concurrency, settings.queue, metrics)
    images = Images(models, workers, metrics, settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        models.begin_self_test()
        yield
        await workers.drain(_DRAIN_SECONDS)

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(request: Request) -> Response:
        if workers.draining:
            raise errors.stopping()
        return await models.ready(request)

    async def page(_: Request) -> Response:
        return FileResponse(_STATIC / "index.html", headers=_ASK_AGAIN)

    guard = [] if settings.api_key is None else [Middleware(RequireKey, key=settings.api_key)]
    app = Starlette(
        routes=[
            Route("/v1/images/generations", images.generations, methods=["POST"], middleware=guard),
            Route("/v1/images/interpolations", images.interpolations, methods=["POST"], middleware=guard),
            Route("/v1/models", models.list, middleware=guard),
            Route("/v1/models/{id:path}/vocabulary", models.vocabulary, middleware=guard),
            Route("/v1/models/{id:path}", models.show, middleware=guard),
            Route("/health/live", live),
            Route("/health/ready", ready),
            Route("/metrics", metrics.answer),
            Route("/", page),
            Mount("/static", _Files(directory=_STATIC)),
            Mount("/dmgan", _Files(directory=_WEB)),  # the page reads captions as the browser's runtime does
        ],
        middleware=list(_middleware(settings, metrics)),
        exception_handlers={
            errors.ApiError: errors.answer_api_error,
            DmganError: errors.answer_runtime_error,
            HTTPException: errors.answer_http_error,
            ClientDisconnect: answer_nobody,
        },
        lifespan=lifespan,
    )
    app.state.workers = workers
    return app


class _Files(StaticFiles):
    """Files of which a browser asks each time whether they are still the same, so that none are of another version."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers.update(_ASK_AGAIN)
        return response


def _middleware(settings: ServerSettings, metrics: Metrics) -> Iterator[Middleware]:
    yield Middleware(Watch, metrics=metrics)
    if settings.cors_origins:
        yield Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's package for JavaScript sends some of its own
            expose_headers=["Retry-After", "X-Request-ID"],
        )
