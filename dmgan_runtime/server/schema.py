"""What requests may ask: OpenAI's image protocol, and a little of our own beside it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from dmgan_runtime.server.errors import ApiError

OutputFormat = Literal["png", "jpeg", "webp"]
_Request = TypeVar("_Request", bound=msgspec.Struct)

_IGNORED = {"user", "safety_identifier"}
"""The protocol says what they are for, and that is nothing that changes an image."""

_NOT_HAD: Mapping[str, Collection[Any]] = {
    "quality": ("auto",),
    "background": ("auto", "opaque"),
    "moderation": ("auto",),
    "response_format": ("b64_json",),
    "style": (),
    "output_compression": (),
    "complexity": (),
    "frame_count": (),
    "frame_duration_ms": (),
}
"""Parameters of the protocol that this model has no choice in, with the values that say what it does anyway."""

_PARAM = re.compile(r" - at `\$\.([a-z_]+)")
_UNKNOWN = re.compile(r"unknown field `(.*?)`")
_MISSING = re.compile(r"required field `(.*?)`")


class ImageOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What both kinds of request may ask.

    Attributes:
        model: The name of a bundle; None is the first that the server has.
        size: "auto" is the largest, or "256x256".
        output_format: Of the pictures.
        truncation: As in `Generator.generate`.
        condition: As in `Generator.generate`.
    """

    model: str | None = None
    size: str = "auto"
    output_format: OutputFormat = "png"
    truncation: float = 1.0
    condition: Literal["sampled", "mean"] | None = None


class ImageGeneration(ImageOptions, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/images/generations.

    Attributes:
        prompt: The caption.
        n: How many images; their seeds are `seed`, `seed + 1` and so on.
        stream: Whether each image is sent as soon as it is there.
        partial_images: How many of an image's stages are sent before the last, the first of them first; all of them
            if it has fewer. The protocol has at most 3, and a model of six stages, which is the most, has 5.
        seed: Of the first image; None draws one at random. Not of the protocol, as what follows.
        attention: Whether the memory's attention and gates are sent too.
    """

    prompt: str
    n: Annotated[int, msgspec.Meta(ge=1)] = 1
    stream: bool = False
    partial_images: Annotated[int, msgspec.Meta(ge=0, le=5)] = 0
    seed: int | None = None
    attention: bool = False


class ImageInterpolation(ImageOptions, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/images/interpolations, which the protocol does not have.

    Attributes:
        prompts: One caption, or the first and the last.
        seeds: One, or the first and the last; None draws one at random.
        steps: How many images, both ends included.
    """

    prompts: Annotated[list[str], msgspec.Meta(min_length=1, max_length=2)]
    seeds: Annotated[list[int], msgspec.Meta(min_length=1, max_length=2)] | None = None
    steps: Annotated[int, msgspec.Meta(ge=2)] = 8


def parse(content: bytes, schema: type[_Request]) -> _Request:
    """Reads a request's body.

    Args:
        content: JSON.
        schema: What it asks for.

    Raises:
        ApiError: 400, naming the parameter that is wrong, unknown, or not had.
    """
    try:
        fields = msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON object ({error}); send one", code="invalid_json") from None
    asked = {name: value for name, value in fields.items() if value is not None and name not in _IGNORED}
    for name in _NOT_HAD.keys() & asked.keys():
        value = asked.pop(name)
        if value not in _NOT_HAD[name]:
            had = f"; leave it out, or send {' or '.join(map(repr, had))}" if (had := _NOT_HAD[name]) else ""
            raise ApiError(
                400,
                f"{name} {_shown(value)} is not had here{had or '; leave it out'}",
                param=name,
                code="unsupported_parameter",
            )
    try:
        return msgspec.convert(asked, schema)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), schema) from None


def _refusal(said: str, schema: type[msgspec.Struct]) -> ApiError:
    if unknown := _UNKNOWN.search(said):
        name = unknown[1][:64]
        known = ", ".join(schema.__struct_fields__)
        return ApiError(
            400, f"the parameter {name!r} is unknown; there are {known}", param=name, code="unknown_parameter"
        )
    if missing := _MISSING.search(said):
        return ApiError(400, f"{missing[1]} is missing; send it", param=missing[1], code="missing_required_parameter")
    param = found[1] if (found := _PARAM.search(said)) else None
    what = said.partition(" - at ")[0]
    return ApiError(400, f"{param or 'the body'}: {what[:1].lower()}{what[1:]}", param=param, code="invalid_value")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 64 else f"{text[:64]}..."
