from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from dmgan_runtime import BackendError, BundleError, SettingsError
from dmgan_runtime.backends.base import check_precision, check_threads, choose_precision, graphs_of
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.manifest import Arithmetic
from tests.dmgan_runtime.backends.precisions import add_precision


@pytest.fixture
def three(own_bundle: Path) -> Bundle:
    """A bundle in three precisions."""
    for precision in ("fp16", "int8"):
        add_precision(own_bundle, precision)
    return Bundle(own_bundle)


@pytest.mark.parametrize(
    ("asked", "offered", "chosen"),
    [
        ("auto", ("fp16", "fp32"), "fp16"),
        ("auto", ("bf16", "fp32"), "bf16"),
        ("fp32", ("fp16", "fp32"), "fp32"),
        ("int8", ("fp32", "int8"), "int8"),
    ],
)
def test_auto_takes_the_first_that_there_is(
    three: Bundle, asked: str, offered: tuple[Arithmetic, ...], chosen: str
) -> None:
    assert choose_precision(three, asked, offered, "an engine") == chosen


def test_auto_passes_over_what_the_bundle_lacks(bundle: Path) -> None:
    assert choose_precision(Bundle(bundle), "auto", ("fp16", "fp32"), "an engine") == "fp32"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("int8", "an engine does not compute in precision 'int8'; pass precision='fp32' or precision='auto'"),
        ("FP32", "does not compute in precision 'FP32'"),
    ],
)
def test_what_cannot_be_had_never_becomes_another(bundle: Path, asked: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        choose_precision(Bundle(bundle), asked, ("fp16", "fp32"), "an engine")


def test_auto_in_a_bundle_for_other_engines_names_what_it_has(bundle: Path) -> None:
    with pytest.raises(BackendError, match="has no generator graphs in fp16 or int8, but fp32; export it again"):
        choose_precision(Bundle(bundle), "auto", ("fp16", "int8"), "an engine")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("fp8", "^precision 'fp8' is unknown; pass one of 'auto', 'fp32', 'fp16', 'int8', 'bf16'$"),
        (None, "precision None is unknown"),
        ("int8", "for precision 'int8', but fp32; export it again with --int8, or pass precision='auto'$"),
    ],
)
def test_a_precision_that_there_is_not_is_named(bundle: Path, asked: Any, message: str) -> None:
    with pytest.raises(BackendError, match=message) as caught:
        check_precision(Bundle(bundle), asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", ["auto", "fp32", "bf16", "int8"])
def test_a_precision_that_there_is_passes(three: Bundle, asked: str) -> None:
    """What is not there raises."""
    check_precision(three, asked)


def test_the_text_encoder_is_always_in_fp32(three: Bundle) -> None:
    graphs = graphs_of(three, "fp16")
    assert {role: graph.precision for role, graph in graphs.items()} == {
        "text_encoder": "fp32",
        "generator_0": "fp16",
        "generator_1": "fp16",
        "generator_2": "fp16",
    }
    assert graphs_of(three, "bf16")["generator_1"].precision == "fp32"


def test_a_missing_graph_is_named(own_bundle: Path) -> None:
    add_precision(own_bundle, "fp16", roles=("generator_0",))
    with pytest.raises(BundleError, match="has no generator_1 graph in fp16; export"):
        graphs_of(Bundle(own_bundle), "fp16")


def test_by_default_it_takes_every_cpu_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmgan_runtime.cpus.cpu_quota", lambda: math.inf)  # of the container that the tests run in
    assert check_threads(None) == len(os.sched_getaffinity(0))
    monkeypatch.setattr("dmgan_runtime.cpus.cpu_quota", lambda: 0.5)
    assert check_threads(None) == 1
    assert check_threads(3) == 3
    assert check_threads(cast(Any, np.int64(3))) == 3


@pytest.mark.parametrize("threads", [0, -1, 1025, 1.5, "2", True])
def test_a_wrong_number_of_threads_is_refused(threads: Any) -> None:
    with pytest.raises(SettingsError, match="from 1 to 1024, or None"):
        check_threads(threads)
