"""Captions from the command line, a file or standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from dmgan_runtime.errors import CaptionError, SettingsError
from dmgan_runtime.tokenizer import Encoding

STANDARD_INPUT = "-"
_SHOWN = 20


class CaptionSource(NamedTuple):
    """A caption, and where it stands if it came from a file."""

    caption: str
    place: str | None


def read_captions(arguments: Sequence[str], file: Path | None) -> list[CaptionSource]:
    """Every caption that was asked for: the arguments, "-" standing for the lines of standard input, then the file's.

    Args:
        arguments: Captions, or "-".
        file: UTF-8 text with a caption a line, or None; empty lines are left out.

    Raises:
        SettingsError: if there is none, or text is not UTF-8.
        OSError: if the file cannot be read.
    """
    sources: list[CaptionSource] = []
    for argument in arguments:
        if argument == STANDARD_INPUT:
            if sys.stdin is None:
                raise SettingsError("standard input is closed; pass captions as arguments or with --file")
            sources += _lines(sys.stdin.buffer.read(), "standard input")
        else:
            sources.append(CaptionSource(argument, None))
    if file is not None:
        sources += _lines(file.read_bytes(), str(file))
    if not sources:
        raise SettingsError("there are no captions; pass some as arguments, with --file, or - for standard input")
    return sources


def check_captions(
    sources: Sequence[CaptionSource], encode: Callable[[str], Encoding], takes: Callable[[str], bool]
) -> list[Encoding]:
    """Reads every caption before the first is generated.

    Args:
        sources: The captions.
        encode: Reads one, or says at length why it cannot.
        takes: Whether one can be read; quick, where `encode` looks for what may have been meant.

    Raises:
        CaptionError: naming the first that cannot be read, where it stands, and how many more there are.
    """
    encodings = []
    for number, (caption, place) in enumerate(sources, 1):
        try:
            encodings.append(encode(caption))
        except CaptionError as error:
            said = f"{place}: {error}" if place else str(error)
            others = sum(not takes(other.caption) for other in sources[number:])
            more = f" (and {others:,} more caption{'s' * (others > 1)} that cannot be read)" if others else ""
            readable = others + 1 < len(sources)
            skip = "; or pass --skip-unreadable, which leaves out what cannot be read" if readable else ""
            raise CaptionError(said + more + skip) from error
    return encodings


def leave_out_unreadable(
    sources: Sequence[CaptionSource], encode: Callable[[str], Encoding], takes: Callable[[str], bool]
) -> list[CaptionSource]:
    """Leaves out what cannot be read, and says on stderr what and how many; of many, why not the first.

    Args:
        sources: The captions.
        encode: As in `check_captions`, like `takes`.
        takes: Whether one can be read.
    """
    refused = [source for source in sources if not takes(source.caption)]
    for caption, place in refused[:_SHOWN]:
        try:
            encode(caption)
        except CaptionError as error:
            click.echo(f"warning: {place or 'a caption'}: {error}; left out", err=True)
    if refused:
        click.echo(f"warning: {len(refused):,} of {len(sources):,} captions cannot be read, and are left out", err=True)
    return [source for source in sources if takes(source.caption)]


def _lines(content: bytes, source: str) -> Iterator[CaptionSource]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{source}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield CaptionSource(line.strip(), f"{source}, line {number}")
