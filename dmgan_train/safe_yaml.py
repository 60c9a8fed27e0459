"""YAML that people write by hand and that may come from anywhere: of plain values, short, shallow, without aliases."""

from __future__ import annotations

import re
from typing import Any

import yaml

LONGEST = 100_000
"""Characters of a text that are read."""
_DEEPEST = 20


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number; YAML 1.1 takes it for a string, because it has no dot.

    Settings are shallow and repeat nothing, so depth is bounded and aliases are refused: some hundred bytes of them can
    stand for more than any memory holds.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("settings have no aliases (*name) and merge keys (<<); write the values")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {_DEEPEST} deep")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+$"), list("+-0123456789")
)


def parse_yaml(text: str) -> Any:
    """Reads YAML.

    Raises:
        ValueError: if it is none, is far too long, or holds a number or a date that is none.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{len(text):,} characters, over {LONGEST:,}")
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a SafeLoader
    except (yaml.YAMLError, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from error
