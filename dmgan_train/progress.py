"""Progress of long work: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

PLAIN_EVERY_SECONDS = 10.0


class Progress:
    """Shows how far long work is: a bar on a terminal, elsewhere a line about every ten seconds and one at the end."""

    def __init__(self, total: int, description: str, unit: str, initial: int = 0, quiet: bool = False) -> None:
        """Args:
        total: How many there are to do.
        description: What is being done, in a word or two.
        unit: What is counted.
        initial: How many were done before.
        quiet: Shows nothing.
        """
        terminal = sys.stderr.isatty()
        hidden = quiet or not terminal
        self._bar = tqdm(total=total, desc=description, unit=unit, initial=initial, dynamic_ncols=True, disable=hidden)
        self._plain = not (terminal or quiet)
        self._total, self._description, self._unit = total, description, unit
        self._done = initial
        self._measures = ""
        self._last = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._print()

    def update(self, count: int = 1) -> None:
        """Says that `count` more are done."""
        self._done += count
        self._bar.update(count)
        if time.monotonic() - self._last >= PLAIN_EVERY_SECONDS:
            self._print()

    def show(self, measures: Mapping[str, float]) -> None:
        """Says what the work measures now."""
        self._measures = " ".join(f"{name}={value:.3g}" for name, value in measures.items())
        self._bar.set_postfix_str(self._measures)

    def _print(self) -> None:
        self._last = time.monotonic()
        if self._plain:
            line = f"{self._description}: {self._done:,}/{self._total:,} {self._unit} {self._measures}".rstrip()
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - this class is what prints
