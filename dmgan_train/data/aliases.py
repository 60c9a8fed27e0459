"""What the captions of a data set may have in place of words, such as emoji: a file beside the data, of any source."""

from __future__ import annotations

from pathlib import Path

from dmgan_runtime.aliases import parse_aliases
from dmgan_runtime.errors import DataError, shortened

ALIASES = "aliases.json"


def read_aliases(root: Path) -> dict[str, str]:
    """The names of a data set's aliases, by alias; empty if it has none.

    Raises:
        DataError: if the file cannot be read, or is no JSON object of names by aliases.
    """
    path = root / ALIASES
    if not path.is_file():
        return {}
    try:
        return parse_aliases(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as aliases ({shortened(error)}); it is a JSON object of names by aliases, such as"
            ' {"\U0001f355": "pizza"}'
        ) from error
