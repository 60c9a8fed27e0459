"""The options of every command that opens a bundle, made from the table of engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dmgan_runtime.backends.base import MAX_THREADS, PRECISIONS
from dmgan_runtime.backends.registry import BACKENDS

_Command = TypeVar("_Command", bound=Callable[..., Any])
_OPENING_OPTIONS = (
    click.option(
        "--backend",
        default="auto",
        show_default=True,
        help=f"Engine: {', '.join(BACKENDS)}; or auto, the best of them, which dmgan-doctor shows.",
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option(
        "--precision",
        default="auto",
        show_default=True,
        help=f"{', '.join(PRECISIONS)}: as the bundle and the engine have it.",
    ),
    click.option("--threads", type=click.IntRange(1, MAX_THREADS), show_default="all CPUs", help="CPU threads."),
)


def opening_options(command: _Command) -> _Command:
    """Adds the options of every command that opens a bundle: how `Generator.open` chooses the engine."""
    for option in reversed(_OPENING_OPTIONS):
        command = option(command)
    return command
