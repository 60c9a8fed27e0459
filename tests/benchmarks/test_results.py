"""A result is read as it was written, and nothing else is read as a result."""

import json
import os
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.environment import measure_others
from benchmarks.results import Measure, Series, read_result
from dmgan_runtime.errors import DataError
from tests.benchmarks.fakes import environment, make_result


@pytest.mark.parametrize("measure", get_args(Measure))
def test_a_result_survives_its_file(measure, tmp_path) -> None:
    result = make_result(measure)
    (tmp_path / "r.json").write_bytes(result.to_json())
    assert read_result(tmp_path / "r.json") == result


@given(samples=st.lists(st.floats(0, 1e12), min_size=1, max_size=50))
def test_every_sample_is_kept_to_the_last_bit(samples) -> None:
    series = Series(contender="a", measure="end_to_end", unit="s", samples=tuple(samples))
    result = make_result("latency", series=(series,))
    assert json.loads(result.to_json())["series"][0]["samples"] == samples


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "2.0"}, "schema version 2.0, and this reads 1.0; measure again"),
        ({"more": 1}, "is no result"),
        ({"measure": "beauty"}, "is no result"),
    ],
)
def test_what_is_no_result_is_refused(change, message, tmp_path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(json.loads(make_result("latency").to_json()) | change))
    with pytest.raises(DataError, match=message):
        read_result(path)


def test_a_missing_file_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"none\.json: is no result"):
        read_result(tmp_path / "none.json")


def test_series_are_found_by_what_they_are() -> None:
    result = make_result("throughput")
    found = result.find("onnxruntime-int8", "images_per_second", 1, 8)
    assert found is not None
    assert found.clients == 8
    assert result.find("onnxruntime-int8", "images_per_second", 1, 3) is None


@pytest.mark.parametrize(
    ("before", "after", "busy"),
    [(None, None, False), (0.4, 0.4, False), (0.6, None, True), (None, 0.6, True), (0.1, 0.6, True)],
)
def test_a_busy_machine_is_told(before, after, busy) -> None:
    assert environment(busy_before=before, busy_after=after, cpus=2).was_busy is busy


def test_the_work_of_others_is_seen() -> None:
    others = measure_others(0.2)
    assert others is None or 0 <= others <= 1.5 * (os.cpu_count() or 1)
