"""The errors that dmgan raises on purpose: one family, one class for each kind of trouble.

Every message says what is wrong, where, and what to do next.
"""

import re

_EMOJI = re.compile("[\u200d\U0001f000-\U0001faff]")
_ESCAPED_EMOJI = re.compile(r"(?<!\\)((?:\\\\)*)\\(?:u(200d)|U000(1f[0-9a][0-9a-f]{2}))")
_LINE_CHARACTERS = 1500
_MOST_LINES = 20


def printable(text: str) -> str:
    r"""Text that is safe to print: what is neither visible nor a space or line break becomes its `\x1b`-like escape.

    A caption or a manifest of unknown origin must not move a terminal's cursor, nor turn the direction of its text.
    Emoji stay whole: with the joiners in them, and also those that are newer than Python's tables.
    """
    return "".join(
        character if character.isprintable() or character == "\n" or _EMOJI.match(character) else ascii(character)[1:-1]
        for character in text
    )


def quoted(text: str) -> str:
    """Text in quotes and on one line, as `repr` has it, but with its emoji whole as in `printable`."""
    return _ESCAPED_EMOJI.sub(lambda found: found[1] + chr(int(found[2] or found[3], 16)), repr(text))


def shortened(text: object, most: int = 300) -> str:
    """Text that a message may repeat, such as what a library says of a file of unknown origin, in one short line.

    Args:
        text: Any.
        most: Its characters; of what is longer the middle is left out, since remedies stand at the end.
    """
    return _without_middle(" ".join(str(text).splitlines()), most)


def _without_middle(line: str, most: int) -> str:
    half = most // 2
    return line if len(line) <= most else f"{line[:half]} ... {line[-half:]}"


class DmganError(Exception):
    """The root of every error that dmgan raises on purpose. Its message is safe to print, whatever it quotes."""

    def __str__(self) -> str:
        lines = super().__str__().split("\n")
        if len(lines) > _MOST_LINES:
            lines = [*lines[: _MOST_LINES // 2], "...", *lines[-_MOST_LINES // 2 :]]
        return printable("\n".join(_without_middle(line, _LINE_CHARACTERS) for line in lines))


class BundleError(DmganError):
    """A bundle is missing, damaged, unsafe, or of a format that this version does not read."""


class CaptionError(DmganError):
    """A caption cannot be turned into tokens: empty, too long, or made of unknown words alone."""


class BackendError(DmganError):
    """An engine, a device or a precision was asked for and cannot be had on this machine."""


class EngineError(DmganError):
    """An engine was there but failed while it loaded or ran a graph."""


class SettingsError(DmganError):
    """A setting is unknown, has the wrong type, or is out of its range."""


class DataError(DmganError):
    """A data set is missing, incomplete or damaged."""


class CheckpointError(DmganError):
    """A checkpoint is missing, damaged, or belongs to another model."""


class TrainingError(DmganError):
    """Training cannot go on, for example because a loss is no longer a number."""


class StoppedError(TrainingError):
    """Training was asked to stop, and did.

    Attributes:
        number: The signal that asked; a command then exits with 128 and this number, as shells count.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class ExportError(DmganError):
    """An export failed, or its graphs do not compute what the model computes."""
