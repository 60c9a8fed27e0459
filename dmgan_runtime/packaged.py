"""The model that comes with the package: emoji of 64 pixels, which we trained and give away (its MODEL_CARD.md)."""

from __future__ import annotations

from pathlib import Path

PACKAGED_MODEL = "emoji-64"


def packaged_bundle() -> Path:
    """The folder of the bundle that `Generator.open` takes if none is named."""
    return Path(__file__).parent / "models" / PACKAGED_MODEL
