from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmgan_runtime import BundleError, EngineError, Generator
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.manifest import MANIFEST_NAME, SelfTestEntry
from dmgan_runtime.self_test import make_self_test, run_self_test
from dmgan_runtime.tokenizer import PAD
from tests.bundles import SPEC, build_bundle, write_manifest


@pytest.fixture
def entry(generator: Generator) -> SelfTestEntry:
    return make_self_test(generator)


@pytest.fixture
def tested(own_bundle: Path, entry: SelfTestEntry) -> Iterator[Generator]:
    """A bundle that carries its self-test."""
    write_manifest(own_bundle, self_test=entry)
    with Generator.open(own_bundle, backend="onnxruntime", device="cpu", threads=1) as generator:
        yield generator


def test_it_generates_the_first_words_in_every_resolution(entry: SelfTestEntry) -> None:
    assert (entry.caption, entry.seed) == ("a red blue green round heart square and", 0)
    assert {side: len(thumbnail) for side, thumbnail in entry.thumbnails.items()} == dict.fromkeys(
        SPEC.resolutions, 192
    )
    assert len(set(entry.thumbnails[32])) > 10


def test_words_that_no_caption_can_hold_are_left_out(tmp_path: Path) -> None:
    odd = build_bundle(tmp_path / "odd", words=(PAD, "Don't", "<unk>", "red", "naïve", "heart"))
    with Generator.open(odd, threads=1) as generator:
        assert make_self_test(generator).caption == "red heart"


def test_the_same_bundle_passes(tested: Generator, entry: SelfTestEntry) -> None:
    assert tested.manifest.self_test == entry
    result = run_self_test(tested)
    assert (result.resolution, result.precision, result.difference, result.tolerance) == (32, "fp32", 0, 2)
    assert result.seconds > 0


def test_another_engine_passes(tested: Generator, own_bundle: Path) -> None:
    with Generator.open(own_bundle, backend="openvino", threads=1) as other:
        result = run_self_test(other)
    assert result.difference is not None
    assert result.difference <= 2


def test_another_image_fails_and_is_named(own_bundle: Path, entry: SelfTestEntry) -> None:
    thumbnails = entry.thumbnails | {16: bytes(255 - level for level in entry.thumbnails[16])}
    write_manifest(own_bundle, self_test=entry.__replace__(thumbnails=thumbnails))
    with (
        Generator.open(own_bundle, backend="onnxruntime", device="cpu", threads=1) as generator,
        pytest.raises(EngineError, match=r"on cpu in fp32 generates another image .* at 16 pixels it is \d+"),
    ):
        run_self_test(generator)


def test_another_model_fails(own_bundle: Path, entry: SelfTestEntry) -> None:
    """The tolerance tells one image from another."""
    write_manifest(own_bundle, self_test=entry.__replace__(caption="small green square"))
    with (
        Generator.open(own_bundle, backend="onnxruntime", device="cpu", threads=1) as generator,
        pytest.raises(EngineError, match="generates another image"),
    ):
        run_self_test(generator)


def test_a_bundle_without_one_is_tried_and_not_compared(generator: Generator) -> None:
    result = run_self_test(generator)
    assert (result.resolution, result.difference) == (32, None)


THUMBNAIL = b64encode(bytes(192)).decode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, r"\$\.self_test\.seed"),
        ({"seed": 2**64}, "self_test has the seed 18446744073709551616; seeds go up to 18446744073709551615|seed"),
        ({"thumbnails": dict.fromkeys(("8", "16", "32"), "AAAA")}, r"\$\.self_test\.thumbnails"),
        ({"thumbnails": {}}, r"self_test has thumbnails of \[\], and the model generates \[8, 16, 32\]"),
        ({"thumbnails": dict.fromkeys(("8", "16"), THUMBNAIL)}, r"thumbnails of \[8, 16\], and the model generates"),
        ({"thumbnails": dict.fromkeys(("8", "16", "32", "64"), THUMBNAIL)}, "and the model generates"),
    ],
)
def test_a_wrong_entry_is_no_manifest(
    own_bundle: Path, entry: SelfTestEntry, changes: dict[str, Any], message: str
) -> None:
    write_manifest(own_bundle, self_test=entry)
    content = json.loads((own_bundle / MANIFEST_NAME).read_bytes())
    content["self_test"] |= changes
    (own_bundle / MANIFEST_NAME).write_text(json.dumps(content))
    with pytest.raises(BundleError, match=rf"not a valid manifest .*({message})"):
        Generator.open(own_bundle)


def test_the_largest_seed_is_one(own_bundle: Path, entry: SelfTestEntry) -> None:
    write_manifest(own_bundle, self_test=entry.__replace__(seed=2**64 - 1))
    with Bundle(own_bundle) as opened:
        assert opened.manifest.self_test is not None
