"""Captions from the command line, a file or standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dmgan_runtime.errors import CaptionError, SettingsError
from dmgan_runtime.tokenizer import Encoding

STANDARD_INPUT = "-"


class Source(NamedTuple):
    """A caption, and where it stands if it came from a file."""

    caption: str
    place: str | None


def read_captions(arguments: Sequence[str], file: Path | None) -> list[Source]:
    """Every caption that was asked for: the arguments, "-" standing for the lines of standard input, then the file's.

    Args:
        arguments: Captions, or "-".
        file: UTF-8 text with a caption a line, or None; empty lines are left out.

    Raises:
        SettingsError: if there is none, or text is not UTF-8.
        OSError: if the file cannot be read.
    """
    sources: list[Source] = []
    for argument in arguments:
        if argument == STANDARD_INPUT:
            sources += _lines(sys.stdin.buffer.read(), "standard input")
        else:
            sources.append(Source(argument, None))
    if file is not None:
        sources += _lines(file.read_bytes(), str(file))
    if not sources:
        raise SettingsError("there are no captions; pass some as arguments, with --file, or - for standard input")
    return sources


def check_captions(sources: Sequence[Source], encode: Callable[[str], Encoding]) -> list[Encoding]:
    """Reads every caption before the first is painted.

    Raises:
        CaptionError: naming the first that cannot be read, where it stands, and how many more there are.
    """
    encodings, errors = [], []
    for caption, place in sources:
        try:
            encodings.append(encode(caption))
        except CaptionError as error:
            errors.append(f"{place}: {error}" if place else str(error))
    if errors:
        more = f" (and {len(errors) - 1} more captions that cannot be read)" if len(errors) > 1 else ""
        raise CaptionError(errors[0] + more)
    return encodings


def _lines(content: bytes, source: str) -> Iterator[Source]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{source}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield Source(line.strip(), f"{source}, line {number}")
