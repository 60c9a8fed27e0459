"""Who is tried on which device, and how one is asked for by name."""

import pytest

from benchmarks.contenders import REFERENCE, candidates, select
from dmgan_runtime.backends.registry import ENGINES
from dmgan_runtime.errors import SettingsError


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_the_reference_comes_first_and_every_engine_is_tried(device) -> None:
    found = candidates(device, threads=2)
    kind = device.partition(":")[0]
    assert found[0].name == REFERENCE
    assert {each.engine for each in found} == {"torch", *(e.backend for e in ENGINES if e.device == kind)}
    assert {each.form for each in found} == {"", "eager", "channels_last", "compile"}
    assert len({each.name for each in found}) == len(found)


def test_half_precision_is_tried_where_it_belongs() -> None:
    assert "torch-compile-fp16" in {each.name for each in candidates("cuda:0", 2)}
    names = {each.name for each in candidates("cpu", 2)}
    assert "torch-eager-bf16" in names
    assert "torch-eager-fp16" not in names


def test_some_are_chosen_by_name_and_the_reference_always() -> None:
    chosen = select(candidates("cpu", 2), ["openvino-fp32"])
    assert [each.name for each in chosen] == [REFERENCE, "openvino-fp32"]


def test_no_name_is_everybody() -> None:
    found = candidates("cpu", 2)
    assert select(found, ()) == found


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(SettingsError, match=r"no contender 'onnx' here; there are: torch-eager-fp32, "):
        select(candidates("cpu", 2), ["onnx"])
