"""Aliases: what a caption may have in place of words, such as emoji, and the names that are read for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

MAX_ALIASES = 65_536
MAX_ALIAS_CHARACTERS = 32
MAX_NAME_CHARACTERS = 128
_VARIATION_SELECTORS = "\ufe0e\ufe0f"  # they choose between a drawing in colours and one in black
_QUOTED = 40


def parse_aliases(content: bytes) -> dict[str, str]:
    """Reads aliases from the text of a JSON object of names by aliases.

    Raises:
        ValueError: if it is no such object, or holds what `Aliases` does not take.
    """
    names = msgspec.json.decode(content, type=dict[str, str])
    _check(names)
    return names


def aliases_to_json(names: Mapping[str, str]) -> bytes:
    """Names by alias as the JSON object that `parse_aliases` reads."""
    return msgspec.json.format(msgspec.json.encode(names), indent=0)


class Aliases:
    """Finds aliases in captions.

    Attributes:
        names: By alias.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        """Args:
        names: By alias. An alias has 1 to 32 characters, not all of them ASCII, so that plain text is never an alias,
            and no variation selectors, which are passed over in captions. A name has at most 128 characters.

        Raises:
            ValueError: if one is otherwise, or there are over 65,536.
        """
        _check(names)
        self.names = dict(names)
        lengths: dict[str, set[int]] = {}
        for alias in self.names:
            lengths.setdefault(alias[0], set()).add(len(alias))
        self._lengths = {first: sorted(each, reverse=True) for first, each in lengths.items()}

    def split(self, caption: str) -> Iterator[tuple[str, str | None]]:
        """Cuts a caption into its aliases and what is between them, in a time that grows with its length alone.

        Args:
            caption: Any text.

        Yields:
            A part of the caption, and the alias's name or None. Joined, the parts are the caption.
        """
        if not self.names or caption.isascii():
            yield caption, None
            return
        places = [place for place, character in enumerate(caption) if character not in _VARIATION_SELECTORS]
        plain = "".join([caption[place] for place in places])
        places.append(len(caption))
        start = at = 0
        while at < len(plain):
            alias = self._longest(plain, at)
            if not alias:
                at += 1
                continue
            yield caption[start : places[at]], None
            start = places[at + len(alias)]
            yield caption[places[at] : start], self.names[alias]
            at += len(alias)
        yield caption[start:], None

    def _longest(self, plain: str, at: int) -> str:
        """The longest alias at a place of a text; empty if there is none."""
        for length in self._lengths.get(plain[at], ()):
            alias = plain[at : at + length]
            end = at + len(alias)
            # Tags tell the flag of England from a black flag: they belong to what is before them.
            if alias in self.names and not "\U000e0020" <= plain[end : end + 1] <= "\U000e007f":
                return alias
        return ""


def _check(names: Mapping[str, str]) -> None:
    if len(names) > MAX_ALIASES:
        raise ValueError(f"there are {len(names):,} aliases, and at most {MAX_ALIASES:,} are read")
    for alias, name in names.items():
        if len(alias) > MAX_ALIAS_CHARACTERS:
            raise ValueError(f"the alias {alias[:_QUOTED]!r} has over {MAX_ALIAS_CHARACTERS} characters")
        if alias.isascii():
            raise ValueError(f"the alias {alias!r} is plain text; an alias has a character that is not ASCII")
        if not set(_VARIATION_SELECTORS).isdisjoint(alias):
            raise ValueError(f"the alias {alias!r} has a variation selector (U+FE0E, U+FE0F); leave it out")
        if len(name) > MAX_NAME_CHARACTERS:
            raise ValueError(f"the name {name[:_QUOTED]!r} has over {MAX_NAME_CHARACTERS} characters")
