"""The options of every command that opens a bundle, made from the table of engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dmgan_runtime.backends.base import MAX_THREADS, PRECISIONS
from dmgan_runtime.backends.choice import MAX_QUALITY, QUALITY, Quality, device_index
from dmgan_runtime.backends.registry import BACKENDS
from dmgan_runtime.errors import BackendError


def _check_device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        device_index(value)
    except BackendError as error:
        raise click.BadParameter(str(error), ctx, param) from error
    return value


_DECIBELS = click.FloatRange(0, MAX_QUALITY, min_open=True)


def _check_quality(ctx: click.Context, param: click.Parameter, value: str) -> Quality:
    if value == "exact":
        return "exact"
    try:
        decibels: float = _DECIBELS(value, param, ctx)
    except click.BadParameter as error:
        raise click.BadParameter(
            f"{value!r} is neither a PSNR in dB, over 0 and at most {MAX_QUALITY:g}, nor exact", ctx, param
        ) from error
    return decibels


_Command = TypeVar("_Command", bound=Callable[..., Any])
_OPENING_OPTIONS = (
    click.option(
        "--backend",
        type=click.Choice(["auto", *BACKENDS]),
        default="auto",
        show_default=True,
        help="Engine; auto is the best that can be had, which dmgan-doctor shows.",
    ),
    click.option(
        "--device", callback=_check_device, default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
    ),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="auto",
        show_default=True,
        help="As the bundle and the engine have it.",
    ),
    click.option(
        "--quality",
        callback=_check_quality,
        default=f"{QUALITY:g}",
        metavar="dB|exact",
        show_default=True,
        help="How near to fp32 the images must be if the precision is auto: a PSNR in dB, or exact.",
    ),
    click.option("--threads", type=click.IntRange(1, MAX_THREADS), show_default="all CPUs", help="CPU threads."),
)


def opening_options(command: _Command) -> _Command:
    """Adds the options of every command that opens a bundle: how `Generator.open` chooses the engine."""
    for option in reversed(_OPENING_OPTIONS):
        command = option(command)
    return command
