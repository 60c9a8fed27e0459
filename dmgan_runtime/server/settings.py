"""What an operator sets of the application."""

from __future__ import annotations

from dataclasses import dataclass

from dmgan_runtime import SettingsError

_LEAST = {
    "concurrency": 1,
    "queue": 0,
    "max_body_bytes": 1,
    "max_prompt_characters": 1,
    "max_images": 1,
    "max_steps": 2,
}


@dataclass(frozen=True)
class ServerSettings:
    """Limits and manners of the application.

    Attributes:
        concurrency: Requests that are worked on at once, each in a thread.
        queue: Requests that may wait beside them; the next is answered with 429.
        max_body_bytes: Of a request.
        max_prompt_characters: Of a caption.
        max_images: The largest `n` of a request.
        max_steps: Frames of a walk at most.
        api_key: What `Authorization: Bearer` must bring to everything under `/v1`; None asks for nothing.
        cors_origins: Origins of other pages whose scripts may ask, such as `https://example.org`.
        metadata: Whether PNGs carry caption and seed.
    """

    concurrency: int = 2
    queue: int = 32
    max_body_bytes: int = 64 * 2**10
    max_prompt_characters: int = 4000
    max_images: int = 10
    max_steps: int = 32
    api_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    metadata: bool = True

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise SettingsError(f"{name} is {getattr(self, name)}; pass at least {least}")
        if self.api_key is not None and not (self.api_key and self.api_key.isascii() and self.api_key.isprintable()):
            raise SettingsError(
                "the API key is empty or has characters that no header holds; pass printable ASCII, or none at all"
                " (unset DMGAN_API_KEY) to ask for no key"
            )
