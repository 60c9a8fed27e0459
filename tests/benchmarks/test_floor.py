"""The floor's arithmetic, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.floor import MachineRates, Work, floor_of, graph_work, total
from dmgan_runtime.manifest import FileEntry, GraphEntry, TensorEntry

RATES = MachineRates(operations_per_s={"fp32": 1e11, "int8": 4e11}, bytes_per_s=1e10)
GRAPH = GraphEntry(
    role="generator_1",
    precision="fp32",
    file=FileEntry(path="g.onnx", bytes=1000, sha256="0" * 64),
    opset=20,
    inputs=(TensorEntry(name="lengths", dtype="int64", shape=("batch",)),),
    outputs=(TensorEntry(name="image", dtype="float32", shape=("batch", 3, 8, 8)),),
)


def test_weights_are_read_once_and_tensors_for_every_image() -> None:
    assert graph_work(GRAPH, 500, batch=1) == Work(operations=500, bytes=1000 + 8 + 4 * 192)
    assert graph_work(GRAPH, 500, batch=4) == Work(operations=2000, bytes=1000 + 4 * (8 + 4 * 192))


def test_what_is_not_touched_is_not_counted() -> None:
    assert graph_work(GRAPH, 500, batch=1, unread=900).bytes == 100 + 8 + 4 * 192


def test_the_slower_of_arithmetic_and_memory_is_the_floor() -> None:
    work = Work(operations=10**10, bytes=10**8)
    floor = floor_of(work, "fp32", RATES)
    assert floor is not None
    assert (floor.operations_s, floor.bytes_s, floor.seconds) == pytest.approx((0.1, 0.01, 0.1))
    faster = floor_of(work, "int8", RATES)
    assert faster is not None
    assert faster.seconds == pytest.approx(0.025)


def test_without_a_rate_there_is_no_floor() -> None:
    assert floor_of(Work(operations=1, bytes=1), "fp16", RATES) is None


@given(parts=st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)), max_size=5))
def test_the_work_of_several_graphs_adds_up(parts) -> None:
    whole = total(Work(operations=operations, bytes=size) for operations, size in parts)
    assert (whole.operations, whole.bytes) == (sum(p[0] for p in parts), sum(p[1] for p in parts))
