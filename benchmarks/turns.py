"""Turns: A B C A B C, so that whatever else the machine does falls on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dmgan_runtime.errors import DmganError

_SLOW_S = 1.0


@dataclass(frozen=True)
class Limits:
    """When to stop.

    Attributes:
        rounds: At most so many.
        seconds: No new round after so long.
        least: But at least so many rounds.
    """

    rounds: int
    seconds: float
    least: int = 3


class Calls(tuple[int, int]):
    """How many calls of a turn are not counted, and how many are."""

    @property
    def uncounted(self) -> int:
        """They refill the caches, which belonged to somebody else since the last turn."""
        return self[0]

    @property
    def counted(self) -> int:
        """These give a sample each."""
        return self[1]


def calls_per_turn(slowest: float) -> Calls:
    """The calls of a turn, the same for everybody.

    Args:
        slowest: Seconds that the slowest contender takes for one call. Long calls need no second one: refilling a cache
            is nothing to them.
    """
    return Calls((0, 1)) if slowest >= _SLOW_S else Calls((1, 4))


def take_turns(
    turns: Mapping[str, Callable[[], object]], limits: Limits, clock: Callable[[], float] = time.monotonic
) -> dict[str, str]:
    """Lets everybody have a turn, in order, round after round.

    Args:
        turns: What each does in its turn.
        limits: When to stop.
        clock: In seconds.

    Returns:
        Who failed, and why; they had no turn after that.
    """
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
