"""Contenders at work: the same pictures from all, each client its thread, and no PyTorch beside an engine."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.contender import peak_memory, save_first_picture, select
from benchmarks.generation import find_contenders
from benchmarks.worker import Worker, call_in_worker
from dmgan_runtime.errors import BackendError, BundleError, SettingsError
from tests.benchmarks.fakes import MODEL, Known

SERVED = "onnxruntime-fp32"


@pytest.fixture(scope="module")
def contenders():
    return select(find_contenders("cpu", 1), [SERVED])


def test_contenders_make_the_same_pictures(model, contenders) -> None:
    captions = model.take_captions(3)
    samplers = [contender.open(model) for contender in contenders]
    for ours, theirs in zip(*(sampler.generate(captions) for sampler in samplers), strict=True):
        difference = np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)
        assert np.abs(difference).max() <= 1
    arrays = [sampler.synthesize(captions) for sampler in samplers]
    np.testing.assert_allclose(*arrays, atol=1e-3)


def test_graphs_are_timed_in_the_order_in_which_they_run(model, contenders) -> None:
    for contender in contenders:
        laps = contender.open(model).time_graphs(model.take_captions(2))
        assert list(laps) == list(contender.operations(model))
        assert min(laps.values()) > 0


def test_the_exported_graphs_have_less_arithmetic(model, contenders) -> None:
    written, exported = (contender.operations(model) for contender in contenders)
    assert written["text_encoder"] == exported["text_encoder"]
    assert exported["generator_2"] < 0.8 * written["generator_2"]


def test_a_client_is_the_same_thread_in_every_turn() -> None:
    with Worker(Known().open, MODEL) as worker:
        for clients in (2, 4, 2, 4):
            worker.call("serve", ["a"], clients, 0.3)
        first, second, *again = worker.call("who_asked")
    assert len(first) == 2
    assert len(second) == 4
    assert first < second
    assert again == [first, second]


def test_an_error_of_a_client_is_raised() -> None:
    sampler = Known(most=1).open(MODEL)
    with pytest.raises(Exception, match="no memory"):
        sampler.serve(["a", "b"], 2, 0.1)


def test_the_process_of_an_engine_holds_no_pytorch(model, contenders) -> None:
    with Worker(contenders[1].open, model) as worker:
        worker.call("generate", model.take_captions(1))
        loaded = worker.run(eval, "set(__import__('sys').modules)")
    assert "onnxruntime" in loaded
    assert "torch" not in loaded


def test_the_memory_of_a_worker_is_its_own() -> None:
    ballast = np.ones(2**26)
    assert call_in_worker(peak_memory) < peak_memory() - ballast.nbytes / 2


def test_the_first_picture_lies_in_a_file(model, contenders, tmp_path) -> None:
    call_in_worker(save_first_picture, contenders[1], model, tmp_path / "first.png")
    assert (tmp_path / "first.png").stat().st_size > 100
    with pytest.raises(BundleError, match="missing"):
        call_in_worker(save_first_picture, contenders[1], model.__replace__(bundle=str(tmp_path)), tmp_path / "x.png")


def test_what_the_weights_could_not_be_exported_in_is_refused(model, contenders) -> None:
    lacking = model.__replace__(lacks={"fp32": "these weights cannot"})
    with pytest.raises(BackendError, match="these weights cannot"):
        contenders[1].open(lacking)


def test_some_are_chosen_by_name_and_the_reference_always() -> None:
    found = find_contenders("cpu", 2)
    assert [each.name for each in select(found, ["openvino-fp32"])] == ["torch-eager-fp32", "openvino-fp32"]
    assert select(found, ()) == found


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(SettingsError, match=r"no contender 'onnx' here; there are: torch-eager-fp32, "):
        select(find_contenders("cpu", 2), ["onnx"])
