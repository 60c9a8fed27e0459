"""The endpoints that make images."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec
from PIL import Image
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from dmgan_runtime import DmganError, Generation, Generator
from dmgan_runtime.server.attention import attention_of
from dmgan_runtime.server.errors import CLIENT_GONE, ApiError, TooLongError, of_runtime
from dmgan_runtime.server.metrics import Metrics
from dmgan_runtime.server.models import Models
from dmgan_runtime.server.schema import ImageGeneration, ImageInterpolation, ImageOptions, OutputFormat, parse
from dmgan_runtime.server.settings import ServerSettings
from dmgan_runtime.server.workers import Workers
from dmgan_runtime.viz import encode

_Answer = TypeVar("_Answer")
_MOST_SEED = 2**64 - 1  # as the runtime's public names say it, which are all that a server uses
_MOST_NEAR = 3
"""Unknown words whose neighbours are looked for: 1 ms each in 3,000 words, 25 ms in 27,000."""


class StagePicture(NamedTuple):
    """One stage of one image, ready to be sent.

    Attributes:
        stage: Its number, from 0.
        last: Whether the image is complete.
        b64_json: The picture.
        resolution: Its side in pixels.
        facts: What came of caption and seed.
    """

    stage: int
    last: bool
    b64_json: str
    resolution: int
    facts: dict[str, Any]


class Images:
    """Makes images in the application's threads."""

    def __init__(self, models: Models, workers: Workers, metrics: Metrics, settings: ServerSettings) -> None:
        self._models = models
        self._workers = workers
        self._metrics = metrics
        self._settings = settings

    async def generations(self, request: Request) -> Response:
        """POST /v1/images/generations."""
        asked = parse(await self._body(request), ImageGeneration)
        name, generator = self._models.find(asked.model)
        self._check_prompt(asked.prompt)
        if asked.n > self._settings.max_images:
            raise ApiError(400, f"n is {asked.n}; ask for at most {self._settings.max_images}", param="n")
        if asked.n > 1 and asked.seed is not None and asked.seed + asked.n - 1 > _MOST_SEED:
            raise ApiError(
                400, f"seed is {asked.seed}; the last of {asked.n} images would pass {_MOST_SEED}", param="seed"
            )
        resolution = _resolution(asked, generator)
        stages = self._workers.run(lambda _: self._generate(name, generator, asked, resolution))
        head: dict[str, Any] = {
            "size": f"{resolution}x{resolution}",
            "output_format": asked.output_format,
            "background": "opaque",
        }
        if asked.stream:
            return await _events(request, stages, head)
        pictures = await _unless_gone(request, _last_stages(stages))
        data = [{"b64_json": each.b64_json, "dmgan": each.facts} for each in pictures]
        words = len(pictures[0].facts["words"])
        return JSONResponse({"created": int(time.time()), "data": data, "usage": _usage(words), **head})

    async def interpolations(self, request: Request) -> Response:
        """POST /v1/images/interpolations: the images between two captions, two seeds, or both."""
        asked = parse(await self._body(request), ImageInterpolation)
        name, generator = self._models.find(asked.model)
        for prompt in asked.prompts:
            self._check_prompt(prompt)
        if asked.steps > self._settings.max_steps:
            raise ApiError(400, f"steps is {asked.steps}; ask for at most {self._settings.max_steps}", param="steps")
        resolution = _resolution(asked, generator)
        frames = self._workers.run(lambda stopped: self._interpolate(name, generator, asked, resolution, stopped))
        data = await _unless_gone(request, _collect(frames))
        size = f"{resolution}x{resolution}"
        return JSONResponse(
            {"created": int(time.time()), "data": data, "size": size, "output_format": asked.output_format}
        )

    def _generate(
        self, name: str, generator: Generator, asked: ImageGeneration, resolution: int
    ) -> Iterator[StagePicture]:
        """In a thread: the stages that are to be sent, image by image, each computed when it is asked for."""
        seed, last = asked.seed, generator.resolutions.index(resolution)
        near: dict[str, list[str]] | None = None  # the same for every image
        for _ in range(asked.n):
            milliseconds: dict[str, float] = {}
            stages = generator.stream(
                asked.prompt,
                seed=seed,
                resolution=resolution,
                attention=asked.attention,
                truncation=asked.truncation,
                condition=asked.condition,
            )
            for index in range(last + 1):
                start = time.perf_counter()
                generation = next(stages)
                seconds = time.perf_counter() - start
                side = generation.image.width
                milliseconds[str(side)] = round(1000 * seconds, 3)
                self._metrics.stage_seconds.labels(name, side).observe(seconds)
                # A stage that nobody sees is not encoded, but the client may have left meanwhile, so it is handed over.
                shown = index == last or (asked.stream and index < asked.partial_images)
                content = _base64(generation.image, asked.output_format, self._text(generation)) if shown else ""
                if index == last and near is None:
                    near = {word: generator.tokenizer.nearest(word) for word in generation.unknown_words[:_MOST_NEAR]}
                facts = _facts(generation, milliseconds, near if index == last else None)
                if asked.attention and index == last:
                    facts["attention"] = attention_of(generation)
                yield StagePicture(index, index == last, content, side, facts)
            self._metrics.images.labels(name).inc()
            self._metrics.unknown_words.labels(name).inc(len(generation.unknown_words))
            seed = generation.seed + 1

    def _interpolate(
        self, name: str, generator: Generator, asked: ImageInterpolation, resolution: int, stopped: threading.Event
    ) -> Iterator[dict[str, str]]:
        """In a thread: the frames of a walk."""

        def stop(_: int, __: int) -> None:
            if stopped.is_set():
                raise ClientDisconnect

        frames = generator.interpolate(
            (asked.prompts[0], asked.prompts[-1]),
            seeds=None if asked.seeds is None else (asked.seeds[0], asked.seeds[-1]),
            steps=asked.steps,
            resolution=resolution,
            truncation=asked.truncation,
            condition=asked.condition,
            progress=stop,
        )
        self._metrics.images.labels(name).inc(len(frames))
        for frame in frames:
            yield {"b64_json": _base64(frame, asked.output_format, None)}

    def _text(self, generation: Generation) -> dict[str, str] | None:
        return generation.metadata if self._settings.metadata else None

    def _check_prompt(self, prompt: str) -> None:
        most = self._settings.max_prompt_characters
        if len(prompt) > most:
            raise ApiError(
                400,
                f"the prompt has {len(prompt):,} characters, over {most:,}; shorten it",
                param="prompt",
                code="string_above_max_length",
            )

    async def _body(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # other kinds may be sent by any web page, without asking first
            raise ApiError(415, "send JSON, with the header Content-Type: application/json")
        encodings = ",".join(request.headers.getlist("content-encoding")).lower()
        if encodings.strip(", ") not in ("", "identity"):
            raise ApiError(
                415,
                f"bodies with Content-Encoding {encodings[:64]!r} are not read; send JSON without that header",
                headers={"Accept-Encoding": "identity"},
            )
        most = self._settings.max_body_bytes
        message = f"the body has over {most:,} bytes; shorten it"
        if int(request.headers.get("content-length", 0)) > most:
            raise TooLongError(message)
        content = bytearray()
        async for chunk in request.stream():  # to its end, since a client that is still sending hears no answer
            if len(content) <= most:
                content += chunk
        if len(content) > most:
            raise ApiError(413, message)
        return bytes(content)


async def _events(request: Request, stages: AsyncIterator[StagePicture], head: dict[str, Any]) -> Response:
    """The answer to `stream`. It begins when the first stage is there, so that mistakes have a status of their own."""
    first = await _unless_gone(request, anext(stages))

    async def lines() -> AsyncIterator[bytes]:
        try:
            yield _event(first, head)
            async for stage in stages:
                yield _event(stage, head)
        except DmganError as error:
            yield _line("error", of_runtime(error).body())

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _event(stage: StagePicture, head: dict[str, Any]) -> bytes:
    if not stage.b64_json:
        return b""
    name = "image_generation.completed" if stage.last else "image_generation.partial_image"
    event: dict[str, Any] = {
        "type": name,
        "b64_json": stage.b64_json,
        "created_at": int(time.time()),
        "quality": "auto",
        **head,
        "dmgan": stage.facts,
    }
    if stage.last:
        event["usage"] = _usage(len(stage.facts["words"]))
    else:
        event["partial_image_index"] = stage.stage
    return _line(name, event)


def _line(name: str, content: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(content))


async def _last_stages(stages: AsyncIterator[StagePicture]) -> list[StagePicture]:
    return [stage async for stage in stages if stage.last]


async def _collect(items: AsyncIterator[_Answer]) -> list[_Answer]:
    return [item async for item in items]


async def _unless_gone(request: Request, work: Awaitable[_Answer]) -> _Answer:
    """What the work comes to, which ends early if the client leaves.

    Raises:
        ClientDisconnect: if it left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def answer_nobody(_: Request, __: Exception) -> Response:
    """For Starlette's table of exceptions: the client has left."""
    return Response(status_code=CLIENT_GONE)


def _resolution(asked: ImageOptions, generator: Generator) -> int:
    sizes = {f"{side}x{side}": side for side in generator.resolutions}
    sizes["auto"] = generator.resolutions[-1]
    try:
        return sizes[asked.size]
    except KeyError:
        raise ApiError(
            400,
            f"size {asked.size[:64]!r} is not one of this model's; ask for {' or '.join(sizes)}",
            param="size",
            code="invalid_value",
        ) from None


def _facts(generation: Generation, milliseconds: dict[str, float], near: dict[str, list[str]] | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "seed": generation.seed,
        "resolution": generation.image.width,
        "words": generation.words,
        "unknown_words": generation.unknown_words,
        "cut_words": generation.cut_words,
        "milliseconds": dict(milliseconds),
    }
    if near is not None:
        facts["near_words"] = near
    return facts


def _usage(words: int) -> dict[str, Any]:
    """A word that the model reads is a token; its images are made of none."""
    return {
        "input_tokens": words,
        "input_tokens_details": {"text_tokens": words, "image_tokens": 0},
        "output_tokens": 0,
        "total_tokens": words,
    }


def _base64(picture: Image.Image, output_format: OutputFormat, text: dict[str, str] | None) -> str:
    return base64.b64encode(encode(picture, output_format.upper(), text)).decode()
