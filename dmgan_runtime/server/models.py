"""The models that a server has, and whether each makes here what it made when it was exported."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import ItemsView, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dmgan_runtime import DmganError, Generator, SettingsError, run_self_test
from dmgan_runtime.server.errors import ApiError
from dmgan_runtime.server.settings import ServerSettings

_LOG = logging.getLogger("dmgan")


class Models:
    """Open generators by the names of their bundles."""

    def __init__(self, generators: Sequence[Generator], settings: ServerSettings) -> None:
        self._settings = settings
        self._generators: dict[str, Generator] = {}
        for each in generators:
            if each.manifest.name in self._generators:
                raise SettingsError(
                    f"two bundles have the name {each.manifest.name!r}, by which requests choose; serve one of them, or"
                    " export one again with another `dmgan-export --name`"
                )
            self._generators[each.manifest.name] = each
        if not generators:
            raise SettingsError("there is no generator to serve; pass at least one")
        self._self_test: asyncio.Task[None] | None = None
        self._trouble: str | None = "the self-test has not ended yet"

    def items(self) -> ItemsView[str, Generator]:
        """Names and generators, in the order in which they were given."""
        return self._generators.items()

    def find(self, name: str | None) -> tuple[str, Generator]:
        """A model by its name; the first if there is none.

        Raises:
            ApiError: 404 if there is no such model.
        """
        found = next(iter(self._generators)) if name is None else name
        if found not in self._generators:
            raise ApiError(
                404,
                f"the model {found[:64]!r} is not here; there are {', '.join(self._generators)}",
                param="model",
                code="model_not_found",
            )
        return found, self._generators[found]

    async def list(self, _: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self._describe(name) for name in self._generators]})

    async def show(self, request: Request) -> Response:
        """GET /v1/models/{id}."""
        name, _ = self.find(request.path_params["id"])
        return JSONResponse(self._describe(name))

    async def vocabulary(self, request: Request) -> Response:
        """GET /v1/models/{id}/vocabulary: every word and alias that the model knows, for those who help with typing."""
        _, generator = self.find(request.path_params["id"])
        known = {"words": generator.tokenizer.words[1:], "aliases": dict(generator.tokenizer.aliases)}
        return JSONResponse(known, headers={"Cache-Control": "no-cache"})

    def begin_self_test(self) -> None:
        """Generates every bundle's self-test in a thread, once."""
        if self._self_test is None:
            self._self_test = asyncio.create_task(self._test())

    async def ready(self, _: Request) -> Response:
        """GET /health/ready."""
        self.begin_self_test()  # in an application whose host does not run its lifespan
        if self._trouble is not None:
            raise ApiError(503, self._trouble, code="not_ready", headers={"Retry-After": "1"})
        return JSONResponse({"status": "ready"})

    async def _test(self) -> None:
        try:
            for name, generator in self._generators.items():
                await asyncio.to_thread(generator.warm_up, [1], stream=True)  # as requests are answered
                result = await asyncio.to_thread(run_self_test, generator)
                fields = {"model": name, "seconds": round(result.seconds, 3), "difference": result.difference}
                _LOG.info("self-test passed", extra={"fields": fields})
        except DmganError as error:
            self._trouble = f"the self-test of {name} failed: {error}"
            _LOG.error(self._trouble)
        except Exception:  # noqa: BLE001 - of any class: else it would never end for those who ask
            self._trouble = f"the self-test of {name} failed; the log says why"
            _LOG.exception(self._trouble)
        else:
            self._trouble = None

    def _describe(self, name: str) -> dict[str, Any]:
        generator = self._generators[name]
        active, manifest = generator.active, generator.manifest
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "dmgan",
            "dmgan": {
                "license": manifest.license,
                "resolutions": generator.resolutions,
                "max_words": manifest.tokenizer.max_words,
                "vocabulary_size": len(generator.tokenizer) - 1,
                "backend": active.backend,
                "version": active.version,
                "device": active.device,
                "precision": active.precision,
                "max_images": self._settings.max_images,
                "max_steps": self._settings.max_steps,
            },
        }
