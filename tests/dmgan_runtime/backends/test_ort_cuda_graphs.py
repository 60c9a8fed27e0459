"""Which CUDA graphs are captured with ONNX Runtime, over `fake_onnxruntime`.

It replays a graph with the buffers that it was captured with; the images of `test_ort_cuda` are right all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dmgan_runtime import EngineError, Generator
from tests.dmgan_runtime.backends.fake_onnxruntime import FakeOnnxRuntime
from tests.dmgan_runtime.backends.test_ort_cuda import (
    BUFFERS,
    CAPTIONS,
    GENERATORS,
    images,
)

KEPT = 8


@pytest.fixture
def served(fake_ort: FakeOnnxRuntime, bundle: Path) -> Iterator[Generator]:
    with Generator.open(bundle, backend="onnxruntime", device="cuda", threads=1) as generator:
        yield generator


def test_the_generators_are_captured_in_the_second_run(served: Generator, fake_ort: FakeOnnxRuntime) -> None:
    for runs, captured in ((1, 0), (2, GENERATORS), (3, GENERATORS)):
        images(served, 3)
        assert fake_ort.captured == captured, runs


def test_a_size_is_captured_once_for_all_that_is_asked(served: Generator, fake_ort: FakeOnnxRuntime) -> None:
    for turn in range(4):
        for size in (1, 2, 3):
            for resolution in (8, 16, 32):
                for attention in (False, True):
                    served.generate(["round"] * size, batch_size=size, resolution=resolution, attention=attention)
        served.interpolate(("a red heart", "round"), steps=3)
        if turn == 1:
            before = fake_ort.made, fake_ort.captured
    assert before == (fake_ort.made, fake_ort.captured) == (4 * BUFFERS - 1, 4 * GENERATORS)


def test_more_sizes_in_turn_than_are_kept_end_with_some_that_are_replayed(
    served: Generator, fake_ort: FakeOnnxRuntime
) -> None:
    for _ in range(10):
        for size in range(1, KEPT + 3):
            served.generate(["round"] * size, batch_size=size, resolution=8)
    made, captured = fake_ort.made, fake_ort.captured
    for size in range(1, KEPT + 3):
        served.generate(["round"] * size, batch_size=size, resolution=8)
    assert captured == fake_ort.captured == 64
    assert fake_ort.made - made == (2 + 1) * 8  # two sizes are not kept, and one of those that are makes room
    assert fake_ort.most_buffers == KEPT * 8


def test_a_size_that_is_captured_stays_when_others_come_once(served: Generator, fake_ort: FakeOnnxRuntime) -> None:
    for size in (1, 1, *range(2, 14), 1):
        images(served, size, ["round"] * size)
    assert fake_ort.captured == GENERATORS


def test_a_size_that_comes_back_is_captured_at_once(served: Generator, fake_ort: FakeOnnxRuntime) -> None:
    for size in range(1, KEPT + 2):
        images(served, size, ["round"] * size)
    assert fake_ort.captured == 0
    images(served, 1, ["round"])
    assert fake_ort.captured == GENERATORS


def test_many_streams_at_once_do_not_use_up_what_may_be_captured(served: Generator, fake_ort: FakeOnnxRuntime) -> None:
    for _ in range(5):
        streams = [served.stream("round") for _ in range(20)]
        for stream in streams:
            next(stream)
    assert fake_ort.captured == KEPT


def test_the_sizes_that_are_captured_are_those_in_use_and_not_the_first_ones(
    served: Generator, fake_ort: FakeOnnxRuntime
) -> None:
    for size in range(4, 16):
        images(served, size, ["a red heart"] * size)
    for _ in range(3):
        images(served, 3)
    assert fake_ort.captured == GENERATORS


def test_their_number_is_limited_as_they_are_never_given_back(served: Generator, fake_ort: FakeOnnxRuntime) -> None:
    for size in range(1, 80):
        for _ in range(2):
            served.generate(["round"] * size, resolution=8, batch_size=size)
    assert fake_ort.captured == 64


def test_a_capture_that_fails_is_said_once_and_done_without(
    served: Generator, fake_ort: FakeOnnxRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    expected = images(served, 3)
    images(served, 2)
    images(served, 2)
    fake_ort.fails_to_capture = True
    for _ in range(3):
        for size in (3, 2, 1):
            np.testing.assert_array_equal(images(served, size), expected)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message == "ONNX Runtime runs without CUDA graphs, which is slower: cannot capture"
    fake_ort.fails_to_capture = False
    before = fake_ort.captured
    images(served, 3)
    assert fake_ort.captured == before


def test_a_batch_that_fails_without_them_too_is_no_reason_to_do_without(
    served: Generator, fake_ort: FakeOnnxRuntime
) -> None:
    images(served, 3)
    fake_ort.fails_at = "response_gate"
    with pytest.raises(EngineError, match="out of memory"):
        images(served, 3)
    fake_ort.fails_at = ""
    before = fake_ort.captured
    images(served, 3)
    assert fake_ort.captured == before + GENERATORS


def test_the_text_encoder_is_never_captured(fake_ort: FakeOnnxRuntime, bundle: Path, generator: Generator) -> None:
    options = {"enable_cuda_graph": 1}
    with Generator.open(bundle, backend="onnxruntime", device="cuda", engine_options=options) as served:
        for caption in CAPTIONS * 3:
            np.testing.assert_array_equal(images(served, 1, [caption]), images(generator, 1, [caption]))
        assert fake_ort.captured == GENERATORS


def test_a_user_may_do_without(fake_ort: FakeOnnxRuntime, bundle: Path) -> None:
    options = {"enable_cuda_graph": 0, "arena_extend_strategy": "kSameAsRequested"}
    with Generator.open(bundle, backend="onnxruntime", device="cuda", engine_options=options) as generator:
        for _ in range(3):
            images(generator, 3)
        assert fake_ort.captured == 0
        (found,) = {tuple(sorted(session.options.items())) for session in fake_ort.sessions}
    assert dict(found) == {
        "device_id": "0",
        "enable_cuda_graph": "0",
        "prefer_nhwc": "1",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }
