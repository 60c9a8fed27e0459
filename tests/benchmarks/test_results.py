"""A result is read as it was written, and nothing else is read as a result."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.results import Series, read_result
from dmgan_runtime.errors import DataError
from tests.benchmarks.fakes import ENTRIES, SERIES, make_result


@pytest.mark.parametrize("measure", SERIES)
def test_a_result_survives_its_file(measure, tmp_path) -> None:
    result = make_result(measure)
    result.write(tmp_path / "new" / "r.json")
    assert read_result(tmp_path / "new" / "r.json") == result


@given(samples=st.lists(st.floats(0, 1e12), min_size=1, max_size=50))
def test_every_sample_is_kept_to_the_last_bit(samples, tmp_path_factory) -> None:
    series = Series(contender="a", figure="end_to_end", unit="s", samples=tuple(samples))
    path = tmp_path_factory.mktemp("results") / "r.json"
    make_result("latency", series=(series,)).write(path)
    assert read_result(path).series == (series,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "1.0"}, "schema version 1.0, and this reads 2.0; measure again"),
        ({"more": 1}, "is no result"),
        ({"series": [{"unit": "miles"}]}, "is no result"),
    ],
)
def test_what_is_no_result_is_refused(change, message, tmp_path) -> None:
    path = tmp_path / "r.json"
    make_result("latency").write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        read_result(path)


@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff"])
def test_what_cannot_be_read_is_refused(content, tmp_path) -> None:
    path = tmp_path / "r.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"r\.json: is no result"):
        read_result(path)


def test_series_are_found_by_what_they_are() -> None:
    result = make_result("throughput")
    found = result.find(ENTRIES[1], "images_per_second", 1, 8)
    assert found is not None
    assert found.clients == 8
    assert result.find(ENTRIES[1], "images_per_second", 1, 3) is None
