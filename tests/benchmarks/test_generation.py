"""Each measure, from contenders whose figures are known to the result and its tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks import pool as pool_module
from benchmarks.cli import take
from benchmarks.generation import Latency, Memory, Startup, Throughput, find_contenders
from benchmarks.measure import Measure, Task
from benchmarks.pool import compare_images
from benchmarks.report import render
from benchmarks.results import BenchmarkResult, ModelEntry
from benchmarks.tables import show_number
from benchmarks.turns import Limits
from dmgan_runtime.backends.registry import ENGINES
from tests.benchmarks.fakes import MODEL, RATES, Known, environment

TWICE = Limits(rounds=2, seconds=100, least=1)
SLOW, FAST = Known(engine="slow", seconds=0.5), Known(engine="fast", seconds=0.125)


@pytest.fixture(autouse=True)
def _known_machine(monkeypatch) -> None:
    """At its matrix rate the known operations take an eighth of a second."""
    monkeypatch.setattr(pool_module, "call_in_worker", lambda *_: RATES)
    entry = ModelEntry(name="known", weights="random", resolution=8)
    monkeypatch.setattr(type(MODEL), "describe", lambda _: entry)


def measure(what: Measure, *contenders: Known, results: list[BenchmarkResult] | None = None) -> BenchmarkResult:
    keep = (lambda _: None) if results is None else results.append
    return take(what, Task(MODEL, contenders, compare_images(MODEL)), environment(), keep)


def samples(result: BenchmarkResult, contender: Known, figure: str, *key: int) -> Any:
    entry = next(entry for entry in result.entries if entry.name == contender.name)
    series = result.find(entry, figure, *key)
    return None if series is None else pytest.approx(series.samples)


def test_latency_is_what_each_call_took() -> None:
    results: list[BenchmarkResult] = []
    result = measure(Latency(TWICE, (1, 3)), SLOW, FAST, results=results)
    assert [each.batches() for each in results] == [[1], [1, 3]]
    assert samples(result, SLOW, "end_to_end", 1) == [0.5] * 8
    assert samples(result, FAST, "end_to_end", 1) == [0.125] * 8
    assert samples(result, SLOW, "end_to_end", 3) == [1.5] * 2  # slow calls are not repeated
    assert samples(result, FAST, "generator_0", 3) == [0.28125] * 2
    assert {series.arithmetic_s for series in result.series if series.figure == "generator_0"} == {7 / 64, 21 / 64}
    text = render(result)
    assert "| Slow | fp32 | 500 | - | - | 1 | reference | 125 | 4.0 |" in text
    assert "| Fast | fp32 | 375 | - | - | 4.00 (4.00 to 4.00) | equal | 375 | 1.0 |" in text
    assert "| Fast | fp32 | 93.8 (46.9) | 281 (328) |" in text


def test_without_a_matrix_rate_there_is_no_line() -> None:
    (series, *_) = measure(Latency(TWICE, (1,)), replace(SLOW, precision="int8")).series
    assert series.arithmetic_s is None


@pytest.mark.parametrize("clients", [(1,), (3, 1), (2, 4)])
def test_throughput_counts_the_images_of_all_clients_at_once(clients) -> None:
    result = measure(Throughput(TWICE, (2,), clients, turn_seconds=0.5), FAST)
    for count in clients:
        assert samples(result, FAST, "images_per_second", 2, count) == [count * 8] * 2
    assert f"| Fast | fp32 | {' | '.join(show_number(count * 8) for count in sorted(clients))} |" in render(result)
    # Eight images a second of an eighth of a second's arithmetic each: all of the matrix rate, for each client.
    assert f"| {max(clients):.0%} |" in render(result)


def test_memory_is_what_the_process_holds() -> None:
    large = replace(FAST, engine="large", ballast=300_000_000)
    result = measure(Memory(Limits(1, 0, 1), (1,)), FAST, large)
    peaks = [next(s.samples[0] for s in result.series if s.contender == each.name) for each in (FAST, large)]
    assert 295_000_000 < peaks[1] - peaks[0] < 330_000_000


def test_startup_is_from_the_process_to_the_picture() -> None:
    result = measure(Startup(Limits(1, 0, 1)), replace(FAST, sleep=0.7))
    assert result.series[0].samples[0] > 0.7


def test_who_cannot_be_had_is_named_with_the_reason_but_not_with_a_folder() -> None:
    refusing = replace(FAST, engine="none", refuses="/home/me/bundle has no graphs; see ./onnx/x.onnx or bf16/fp16")
    result = measure(Latency(TWICE, (1,)), SLOW, refusing)
    reason = "bundle has no graphs; see x.onnx or bf16/fp16"
    assert [(absence.contender, absence.reason) for absence in result.absences] == [(refusing.name, reason)]


def test_without_the_reference_there_is_no_result() -> None:
    with pytest.raises(pool_module.DmganError, match="not here"):
        measure(Latency(TWICE, (1,)), replace(SLOW, refuses="not here"), FAST)


def test_other_images_are_no_contest() -> None:
    result = measure(Latency(TWICE, (1,)), SLOW, replace(FAST, wrong=True))
    assert [entry.name for entry in result.entries] == [SLOW.name]
    assert "makes other images than PyTorch" in result.absences[0].reason


def test_one_that_fails_at_a_batch_size_is_left_out_there() -> None:
    small = replace(FAST, engine="small", most=2)
    result = measure(Latency(TWICE, (1, 3)), SLOW, small)
    assert samples(result, small, "end_to_end", 1) is not None
    assert samples(result, small, "end_to_end", 3) is None
    assert [(each.contender, each.batch, each.reason) for each in result.absences] == [(small.name, 3, "no memory")]


def test_one_whose_process_ends_in_its_turn_is_named_once_and_leaves_no_empty_series() -> None:
    mortal = replace(FAST, engine="mortal", dies_at=4)
    result = measure(Latency(TWICE, (2,)), SLOW, mortal)
    assert {series.contender for series in result.series} == {SLOW.name}
    assert [(absence.contender, absence.batch) for absence in result.absences] == [(mortal.name, 2)]


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_the_reference_comes_first_and_every_engine_is_tried(device) -> None:
    found = find_contenders(device, threads=2)
    kind = device.partition(":")[0]
    assert found[0].name == "torch-eager-fp32"
    assert {each.engine for each in found} == {"torch", *(e.backend for e in ENGINES if e.device == kind)}
    assert len({each.name for each in found}) == len(found)


def test_half_precision_is_tried_where_it_belongs() -> None:
    assert "torch-compile-fp16" in {each.name for each in find_contenders("cuda:0", 2)}
    names = {each.name for each in find_contenders("cpu", 2)}
    assert "torch-eager-bf16" in names
    assert "torch-eager-fp16" not in names
