"""What the machine can do, and whether it does something else."""

import os

import pytest

from benchmarks import machine
from benchmarks.machine import measure_matrix_rates, measure_others
from tests.benchmarks.fakes import environment


def test_a_rate_is_the_operations_of_a_product_over_its_time(monkeypatch) -> None:
    monkeypatch.setattr(machine, "_SIDE", {"cpu": 64})
    monkeypatch.setattr("timeit.repeat", lambda product, repeat, number: [(product(), 0.5)[1], 0.25, 2.0])
    assert measure_matrix_rates("cpu", 1, ["fp32", "int8", "fp16", "fp32"]) == {"fp32": 2 * 64**3 / 0.25}


@pytest.mark.parametrize(
    ("before", "after", "busy"),
    [(None, None, False), (0.4, 0.4, False), (0.6, None, True), (None, 0.6, True), (0.1, 0.6, True)],
)
def test_a_busy_machine_is_told(before, after, busy) -> None:
    assert environment(busy_before=before, busy_after=after, cpus=2).was_busy is busy


def test_the_work_of_others_is_counted_in_cpus(monkeypatch) -> None:
    ticks = iter([1000, 1000 + 3 * os.sysconf("SC_CLK_TCK")])
    monkeypatch.setattr(machine, "_busy_ticks", lambda: next(ticks))
    monkeypatch.setattr(machine.time, "sleep", lambda _: None)
    assert measure_others(2.0) == 1.5
