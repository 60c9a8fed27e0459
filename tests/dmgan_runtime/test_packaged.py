"""The model that comes with the package."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmgan_runtime import Generator
from dmgan_runtime.backends.choice import QUALITY
from dmgan_runtime.bundle import Bundle, packaged_bundle
from dmgan_runtime.quality import psnr

MAX_BYTES = 12 * 10**6
GOLDEN = Path(__file__).parents[1] / "golden" / "emoji-256"


def instructions() -> str:
    """The kind of processor, as far as engines choose their arithmetic by it."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return next((kind for kind in ("amx_bf16", "avx512f", "avx2") if kind in flags), "unknown")


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
        entries = manifest.every_file
        for entry in entries:
            bundle.read(entry)
    listed = {entry.path for entry in entries} | {"manifest.json"}
    assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == listed


@pytest.mark.parametrize("seed", range(4))
def test_a_red_heart_is_red_on_white(packaged, seed) -> None:
    pixels = np.asarray(packaged.generate("red heart", seed=seed)[0].image, np.float64)
    assert pixels.shape == (256, 256, 3)
    assert pixels[[0, 0, -1, -1], [0, -1, 0, -1]].min() > 230
    red, green, blue = pixels[96:160, 96:160].mean((0, 1))
    assert red > 180
    assert red > green + 80
    assert red > blue + 60


def test_emoji_are_their_names(packaged) -> None:
    names = {
        "🍕": "pizza",
        "👍🏿": "thumbs up, dark skin tone",
        "😺 and ❤️": "grinning cat and red heart",
        "\u2139\ufe0f": "information",
    }
    for caption, name in names.items():
        typed, spelled = packaged.generate([caption, name], seed=2)
        assert typed.words == spelled.words
        assert typed.unknown_words == ()
        assert typed.image.tobytes() == spelled.image.tobytes()
        assert typed.metadata == {"Description": caption, "Seed": "2"}
    assert packaged.encode("🍕 🇩🇪").unknown == ("🇩🇪",)


def test_all_its_emoji_are_short_enough_to_be_read_whole(packaged) -> None:
    aliases = packaged.tokenizer.aliases
    assert len(aliases) > 3000
    encodings = {alias: packaged.encode(alias) for alias in aliases}
    assert not [alias for alias, encoding in encodings.items() if encoding.unknown or encoding.cut]


def test_skin_tones_are_in_their_order(packaged) -> None:
    tones = ("light", "medium-light", "medium", "medium-dark", "dark")
    captions = [f"thumbs up, {tone} skin tone" for tone in tones]
    middles = [np.asarray(each.image)[112:176, 96:160].mean() for each in packaged.generate(captions, seed=0)]
    assert middles == sorted(middles, reverse=True)


def test_whatever_this_processor_computes_in_is_near_fp32() -> None:
    with Generator.open() as fastest, Generator.open(quality="exact") as exact:
        for caption in ("red heart", "cat face", "🍕"):
            (expected,), (generated,) = exact.generate(caption, seed=3), fastest.generate(caption, seed=3)
            *_, streamed = fastest.stream(caption, seed=3)
            for each in (generated, streamed):
                assert psnr(np.asarray(each.image, np.float64), np.asarray(expected.image, np.float64)) >= QUALITY


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_ten_captions_are_the_pictures_that_they_always_were(backend: str) -> None:
    """To the bit on processors and engines whose hashes are recorded, and to a level of 255 on others."""
    recorded = json.loads((GOLDEN / "pictures.json").read_text())
    with Generator.open(backend=backend, device="cpu", quality="exact", threads=2) as generator:
        generations = generator.generate(recorded["captions"], seed=recorded["seed"])
        engine = f"{backend} {generator.active.version}, {instructions()}"
    expected = np.split(np.asarray(Image.open(GOLDEN / "pictures.png")).astype(int), len(generations), axis=1)
    for generation, picture in zip(generations, expected, strict=True):
        assert np.abs(np.asarray(generation.image) - picture).max() <= 1, generation.caption
    hashes = [
        hashlib.sha256(b"".join(picture.tobytes() for picture in each.stages.values())).hexdigest()
        for each in generations
    ]
    assert hashes == recorded["sha256"].get(engine, hashes)
