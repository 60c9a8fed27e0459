from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from dmgan_runtime import BackendError, EngineError, Generator, tuning
from dmgan_runtime.backends import openvino, tuned
from dmgan_runtime.backends.tuned import write_tuning
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.tuning import Measured, tune

IMAGES = np.linspace(-1, 1, 4 * 3 * 8 * 8, dtype=np.float32).reshape(4, 3, 8, 8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Machine(NamedTuple):
    """Milliseconds of each way; what is not here cannot be had."""

    times: dict[tuple[str, str, int], float]

    def measure(self, path: Path, backend: str, precision: str, threads: int) -> Measured:
        if (backend, precision, threads) not in self.times:
            raise BackendError(f"{backend} is gone")
        return Measured(self.times[backend, precision, threads], IMAGES + (backend == "openvino") * np.float32(1e-3))


def measured_on(bundle: Path, monkeypatch: pytest.MonkeyPatch, times: dict[tuple[str, str, int], float]) -> list[str]:
    monkeypatch.setattr(tuning, "_measure", Machine(times).measure)
    monkeypatch.setattr(tuned, "usable_cpus", lambda: 8)
    said: list[str] = []
    result = tune(bundle, said.append)
    assert result.ways[0].milliseconds == min(way.milliseconds for way in result.ways)
    return [*said, *(f"{way.backend} {way.threads}: {way.psnr_db}" for way in result.ways)]


@pytest.mark.usefixtures("without_bf16")
def test_the_fastest_way_is_tried_with_fewer_threads_while_that_helps(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {("onnxruntime", "fp32", 8): 20.0, ("openvino", "fp32", 8): 10.0}
    times |= {("openvino", "fp32", 4): 8.0, ("openvino", "fp32", 2): 9.0, ("openvino", "fp32", 1): 1.0}
    assert measured_on(bundle, monkeypatch, times) == [
        "onnxruntime in fp32, 8 threads: 20 ms an image, equal",
        "mnn in fp32, 8 threads: mnn is gone",
        "openvino in fp32, 8 threads: 10 ms an image, 66.0 dB",
        "openvino in fp32, 4 threads: 8 ms an image, 66.0 dB",
        "openvino in fp32, 2 threads: 9 ms an image, 66.0 dB",
        "openvino 4: 66.0",
        "openvino 2: 66.0",
        "openvino 8: 66.0",
        "onnxruntime 8: None",
    ]


def test_no_engine_at_all_is_an_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"no engine can be had on this CPU; install one with: pip install"):
        measured_on(bundle, monkeypatch, {})


def test_engines_that_all_fail_over_the_bundle_are_the_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise EngineError("the graph is no graph")

    monkeypatch.setattr(tuning, "_measure", fail)
    with pytest.raises(EngineError, match="the graph is no graph"):
        tune(bundle, print)


def test_other_images_than_those_of_one_colour_are_not_equal(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON has no -inf, and null stands for images that are equal."""
    images = {"onnxruntime": np.zeros_like(IMAGES), "openvino": np.ones_like(IMAGES)}
    monkeypatch.setattr(tuning, "_measure", lambda path, backend, *_: Measured(1.0, images.get(backend, IMAGES)))
    result = tune(bundle, lambda _: None)
    assert {way.psnr_db for way in result.ways if way.backend == "openvino"} == {0.0}


@pytest.mark.usefixtures("without_bf16")
def test_what_was_measured_is_what_is_opened(bundle: Path) -> None:
    said: list[str] = []
    result = tune(bundle, said.append)
    assert {way.backend for way in result.ways} == {"onnxruntime", "openvino"}
    assert all(way.psnr_db is None or way.psnr_db > 60 for way in result.ways)
    with Bundle(bundle) as opened:
        write_tuning(opened, result)
    with Generator.open(bundle, device="cpu") as generator:
        active = generator.active
        assert (active.backend, active.threads) == (result.ways[0].backend, result.ways[0].threads)
        assert "as dmgan-doctor --tune measured on" in active.reason
    with Generator.open(bundle, device="cpu", threads=1) as generator:
        assert "--tune" not in generator.active.reason
    others = {"onnxruntime", "openvino"} - {result.ways[0].backend}
    with Bundle(bundle) as opened:
        write_tuning(opened, result.__replace__(ways=result.ways[:1]))
    with Generator.open(bundle, backend=others.pop(), device="cpu") as generator:  # which was not measured
        assert "--tune" not in generator.active.reason


def test_a_measured_way_that_breaks_is_passed_over(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "_capabilities", lambda _: ["FP32"])
    with Bundle(bundle) as opened:
        result = tune(bundle, lambda _: None)
        slow = result.ways[0].__replace__(precision="bf16", backend="openvino", milliseconds=0.1)
        assert slow.threads <= result.circumstances.cpus
        write_tuning(opened, result.__replace__(ways=(slow, *result.ways)))
    with Generator.open(bundle, device="cpu") as generator:
        assert generator.active.considered[0].state == "missing"
        assert generator.active.backend == result.ways[0].backend
