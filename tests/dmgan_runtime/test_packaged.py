"""The model that comes with the package."""

from __future__ import annotations

import numpy as np
import pytest

from dmgan_runtime import Generator
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.packaged import packaged_bundle

MAX_BYTES = 8 * 10**6


@pytest.fixture(scope="module")
def packaged():
    with Generator.open(threads=1) as generator:
        yield generator


def test_it_is_small_and_may_be_given_away() -> None:
    files = [path for path in packaged_bundle().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    with Bundle(packaged_bundle()) as bundle:
        assert bundle.manifest.license == "MIT"
        assert str(bundle.manifest.provenance["data_license"]).startswith("MIT")


def test_no_file_tells_where_it_was_made() -> None:
    for path in packaged_bundle().rglob("*.onnx"):
        assert b".py" not in path.read_bytes()


def test_every_file_is_listed() -> None:
    root = packaged_bundle()
    with Bundle(root) as bundle:
        manifest = bundle.manifest
        entries = [manifest.tokenizer.file, *(graph.file for graph in manifest.graphs), *manifest.files]
        for entry in entries:
            bundle.read(entry)
    listed = {entry.path for entry in entries} | {"manifest.json"}
    assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == listed


@pytest.mark.parametrize("seed", range(4))
def test_a_red_heart_is_red_on_white(packaged, seed) -> None:
    pixels = np.asarray(packaged.generate("red heart", seed=seed)[0].image, np.float64)
    assert pixels.shape == (64, 64, 3)
    assert pixels[[0, 0, -1, -1], [0, -1, 0, -1]].min() > 230
    red, green, blue = pixels[24:40, 24:40].mean((0, 1))
    assert red > 180
    assert red > green + 80
    assert red > blue + 60


def test_skin_tones_are_in_their_order(packaged) -> None:
    tones = ("light", "medium-light", "medium", "medium-dark", "dark")
    captions = [f"thumbs up, {tone} skin tone" for tone in tones]
    middles = [np.asarray(each.image)[28:44, 24:40].mean() for each in packaged.generate(captions, seed=0)]
    assert middles == sorted(middles, reverse=True)
