"""Turns: A B C A B C, so that whatever else the machine does falls on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from dmgan_runtime.errors import DmganError

_SLOW_S = 1.0


class Limits(NamedTuple):
    """When to stop.

    Attributes:
        rounds: At most so many.
        seconds: No new round after so long.
        least: But at least so many rounds.
    """

    rounds: int
    seconds: float
    least: int = 3


class Calls(NamedTuple):
    """The calls of a turn.

    Attributes:
        uncounted: They refill the caches, which belonged to others since the last turn.
        counted: Each gives a sample.
    """

    uncounted: int
    counted: int


def calls_per_turn(slowest: float) -> Calls:
    """The calls of a turn, the same for all: refilling a cache is nothing to a call that takes so many seconds."""
    return Calls(0, 1) if slowest >= _SLOW_S else Calls(1, 4)


def take_turns(
    turns: Mapping[str, Callable[[], object]], limits: Limits, clock: Callable[[], float] = time.monotonic
) -> dict[str, str]:
    """Lets each have a turn, in order, round after round; returns who failed and had no turn after that, and why."""
    failures: dict[str, str] = {}
    began = clock()
    for done in range(limits.rounds):
        if done >= limits.least and clock() - began >= limits.seconds:
            break
        for name, turn in turns.items():
            if name in failures:
                continue
            try:
                turn()
            except DmganError as error:
                failures[name] = str(error)
    return failures
