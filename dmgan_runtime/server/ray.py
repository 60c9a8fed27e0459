"""The application on Ray Serve, which spreads it over machines.

    serve run dmgan_runtime.server.ray:app bundles=/models/birds.zip concurrency=4

Ray Serve decides how many replicas there are and where; docs/many-machines.md says how it is told.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

import msgspec
import ray
from ray import serve
from starlette.applications import Starlette

from dmgan_runtime import Generator, SettingsError, run_self_test
from dmgan_runtime.server.app import create_app
from dmgan_runtime.server.settings import ServerSettings

_OPENING = ("backend", "device", "precision", "quality")
_SETTINGS = tuple(field.name for field in fields(ServerSettings))


class Replica:
    """The application in one process, with as many threads for an operator as Ray gave it CPUs."""

    def __init__(self, bundles: Sequence[str | None], opening: Mapping[str, Any], settings: ServerSettings) -> None:
        """Opens the bundles; a replica whose self-test fails is none, and is tried again, perhaps elsewhere."""
        given = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
        threads = max(1, int(given.get("CPU", 1)))
        self._generators = [Generator.open(bundle, threads=threads, **opening) for bundle in bundles]
        self._settings = settings
        for generator in self._generators:
            run_self_test(generator)

    def __serve_build_asgi_app__(self) -> Starlette:
        return create_app(self._generators, self._settings)


def app(arguments: Mapping[str, Any]) -> serve.Application:
    """Makes what `serve run` and `serve deploy` take.

    Args:
        arguments: Fields of `ServerSettings`; `bundles`, one or a list, as `dmgan-serve` takes them; and `backend`,
            `device`, `precision` and `quality`, as `Generator.open` does. Without `api_key` it is DMGAN_API_KEY.

    Raises:
        SettingsError: if an argument is unknown or wrong.
    """
    if unknown := sorted(arguments.keys() - {"bundles", *_OPENING, *_SETTINGS}):
        known = ", ".join(("bundles", *_OPENING, *_SETTINGS))
        raise SettingsError(f"the argument {unknown[0]!r} is unknown; there are {known}")
    bundles = arguments.get("bundles", [None])
    opening = {name: arguments[name] for name in _OPENING if name in arguments}
    with suppress(KeyError, ValueError):  # a command line has only strings
        opening["quality"] = float(opening["quality"])
    given = {"api_key": os.environ.get("DMGAN_API_KEY")} | {n: arguments[n] for n in _SETTINGS if n in arguments}
    try:
        settings = msgspec.convert(given, ServerSettings, strict=False)  # likewise
    except msgspec.ValidationError as error:
        raise SettingsError(f"an argument is wrong: {error}") from error
    deployment = serve.deployment(name="dmgan", num_replicas="auto", max_queued_requests=64)(serve.ingress()(Replica))
    return deployment.bind([bundles] if isinstance(bundles, str) else bundles, opening, settings)
