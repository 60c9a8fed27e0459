from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmgan_runtime import BundleError, EngineError, Generator
from dmgan_runtime.manifest import SelfTestEntry
from dmgan_runtime.selftest import make_self_test, run_self_test
from dmgan_runtime.tokenizer import PAD, Tokenizer
from tests.bundles import SPEC, WORDS, write_manifest

TOKENIZER = Tokenizer(WORDS)


@pytest.fixture
def entry(generator: Generator) -> SelfTestEntry:
    return make_self_test(generator, TOKENIZER)


@pytest.fixture
def tested(own_bundle: Path, entry: SelfTestEntry) -> Iterator[Generator]:
    """A bundle that carries its self-test."""
    write_manifest(own_bundle, self_test=entry)
    with Generator.open(own_bundle, backend="onnxruntime", device="cpu", threads=1) as generator:
        yield generator


def test_it_paints_the_first_words_in_every_resolution(entry: SelfTestEntry) -> None:
    assert (entry.caption, entry.seed) == ("a red blue green round heart square and", 0)
    assert {side: len(thumbnail) for side, thumbnail in entry.thumbnails.items()} == dict.fromkeys(
        SPEC.resolutions, 192
    )
    assert len(set(entry.thumbnails[32])) > 10


def test_words_that_no_caption_can_hold_are_left_out(generator: Generator) -> None:
    odd = Tokenizer([PAD, "Don't", "<unk>", "red", "naïve", "heart"])
    assert make_self_test(generator, odd).caption == "red heart"


def test_the_same_bundle_passes(tested: Generator, entry: SelfTestEntry) -> None:
    assert tested.manifest.self_test == entry
    result = run_self_test(tested, TOKENIZER)
    assert (result.resolution, result.difference, result.tolerance) == (32, 0, 2)
    assert result.seconds > 0


def test_another_engine_passes(tested: Generator, own_bundle: Path) -> None:
    with Generator.open(own_bundle, backend="openvino", threads=1) as other:
        result = run_self_test(other, TOKENIZER)
    assert result.difference is not None
    assert result.difference <= 2


def test_another_image_fails_and_is_named(own_bundle: Path, entry: SelfTestEntry) -> None:
    thumbnails = entry.thumbnails | {16: bytes(255 - level for level in entry.thumbnails[16])}
    write_manifest(own_bundle, self_test=entry.__replace__(thumbnails=thumbnails))
    with (
        Generator.open(own_bundle, backend="onnxruntime", device="cpu", threads=1) as generator,
        pytest.raises(EngineError, match=r"on cpu in fp32 paints another image .* at 16 pixels it is \d+"),
    ):
        run_self_test(generator, TOKENIZER)


def test_another_model_fails(own_bundle: Path, entry: SelfTestEntry) -> None:
    """The tolerance tells one image from another."""
    write_manifest(own_bundle, self_test=entry.__replace__(caption="small green square"))
    with (
        Generator.open(own_bundle, backend="onnxruntime", device="cpu", threads=1) as generator,
        pytest.raises(EngineError, match="paints another image"),
    ):
        run_self_test(generator, TOKENIZER)


def test_a_bundle_without_one_is_painted_and_not_compared(generator: Generator) -> None:
    result = run_self_test(generator, TOKENIZER)
    assert (result.resolution, result.difference) == (32, None)


@pytest.mark.parametrize("changes", [{"seed": -1}, {"thumbnails": {8: b"short"}}])
def test_a_wrong_entry_is_no_manifest(own_bundle: Path, entry: SelfTestEntry, changes: dict[str, Any]) -> None:
    write_manifest(own_bundle, self_test=entry.__replace__(**changes))
    with pytest.raises(BundleError, match=r"not a valid manifest .*self_test"):
        Generator.open(own_bundle)
