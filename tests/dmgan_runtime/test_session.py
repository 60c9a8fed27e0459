"""How an open model opens again in a forked process, and what it says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dmgan_runtime import BackendError, BundleError, EngineError, Generator
from dmgan_runtime.backends.base import Active
from dmgan_runtime.session import Session, _reopen
from tests.bundles import write_manifest

ON_A_GPU = Active("tensorrt", "11.4", "cuda:0", "fp16", 1, max_batch=16)


class Reopened(SimpleNamespace):
    """What `open` gives in the forked process."""

    closed = False

    def close(self) -> None:
        self.closed = True


def test_the_same_engine_is_taken() -> None:
    again: Any = Reopened(manifest=None, active=ON_A_GPU, _engine=SimpleNamespace(backend="the backend"))
    assert _reopen(lambda: again, None, ON_A_GPU) == "the backend"  # type: ignore[arg-type,comparison-overlap]
    assert not again.closed


@pytest.mark.parametrize(
    "changes",
    [
        {"backend": "onnxruntime", "version": "1.32", "device": "cpu", "precision": "fp32", "max_batch": None},
        {"version": "11.5"},
        {"device": "cuda:1"},
        {"precision": "fp32"},
        {"max_batch": 4},
    ],
)
def test_another_engine_than_the_parents_is_refused_and_closed(changes: dict[str, Any]) -> None:
    again: Any = Reopened(manifest=None, active=replace(ON_A_GPU, **changes))
    with pytest.raises(EngineError, match=r"opened with tensorrt 11\.4 on cuda:0 in fp16, and this forked") as caught:
        _reopen(lambda: again, None, ON_A_GPU)  # type: ignore[arg-type]
    found = again.active
    assert f"only have {found.backend} {found.version} on {found.device} in {found.precision}" in str(caught.value)
    assert str(caught.value).endswith("; start processes with spawn, not fork")
    assert again.closed


def test_another_bundle_is_refused_and_closed(own_bundle: Path) -> None:
    with Generator.open(own_bundle, threads=1) as first:
        write_manifest(own_bundle, name="another")
        again = Generator.open(own_bundle, threads=1)
        with pytest.raises(BundleError, match="the bundle 'tiny' was replaced"):
            _reopen(lambda: again, first.manifest, first.active)
    with pytest.raises(EngineError, match="closed"):
        again.generate("a heart")


def test_a_device_that_no_fork_may_use_is_named_with_its_remedy() -> None:
    def open_again() -> Session:
        raise BackendError("CUDA was initialized before the fork")

    with pytest.raises(EngineError, match=r"forked process \(CUDA was init.*\); start processes with spawn, not fork"):
        _reopen(open_again, None, ON_A_GPU)  # type: ignore[arg-type]


def test_it_says_what_it_is(own_bundle: Path) -> None:
    write_manifest(own_bundle, name="evil\x1b[2J")
    with Generator.open(own_bundle, backend="onnxruntime", device="cpu", threads=1) as generator:
        active = generator.active
        told = repr(generator)
    assert told == f"<Generator 'evil\\x1b[2J' of 8, 16, 32 pixels on onnxruntime {active.version} on cpu in fp32>"
    assert repr(generator) == f"{told[:-1]}, closed>"


@pytest.mark.parametrize("bundle", [5, b"bundle", ["bundle"]])
def test_what_is_no_path_is_refused(bundle: Any) -> None:
    with pytest.raises(BundleError, match=r"pass the path of a folder or .zip, or None for the model"):
        Generator.open(bundle)
