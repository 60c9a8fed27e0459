"""A B C A B C, until it is time to stop; one who fails is left out."""

from collections.abc import Iterator
from itertools import count

import pytest

from benchmarks.turns import Limits, calls_per_turn, take_turns
from dmgan_runtime.errors import EngineError


def run(names: str, limits: Limits, clock: Iterator[float] | None = None) -> str:
    order: list[str] = []
    ticks = clock or iter(count())
    take_turns({name: lambda name=name: order.append(name) for name in names}, limits, lambda: next(ticks))
    return "".join(order)


def test_everybody_has_a_turn_in_each_round() -> None:
    assert run("ABC", Limits(rounds=3, seconds=100)) == "ABCABCABC"


def test_no_round_begins_when_the_time_is_up() -> None:
    assert run("AB", Limits(rounds=100, seconds=4, least=1)) == "AB" * 4


def test_there_are_as_many_rounds_as_are_needed_at_least() -> None:
    assert run("AB", Limits(rounds=100, seconds=0, least=3)) == "AB" * 3


def test_who_fails_has_no_more_turns() -> None:
    order: list[str] = []

    def fail() -> None:
        order.append("B")
        raise EngineError("no memory")

    turns = {"A": lambda: order.append("A"), "B": fail, "C": lambda: order.append("C")}
    assert take_turns(turns, Limits(rounds=2, seconds=9)) == {"B": "no memory"}
    assert "".join(order) == "ABCAC"


def test_a_defect_is_no_failure() -> None:
    with pytest.raises(ZeroDivisionError):
        take_turns({"A": lambda: 1 / 0}, Limits(rounds=1, seconds=1))


def test_short_calls_are_repeated_after_one_that_does_not_count() -> None:
    short, long = calls_per_turn(0.3), calls_per_turn(2.0)
    assert short == (1, 4)
    assert long == (0, 1)
