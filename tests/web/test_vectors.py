"""Tokens and noise under Node are Python's to the bit, and pictures are within the self-test's bound."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dmgan_runtime.aliases import Aliases
from dmgan_runtime.bundle import packaged_bundle
from dmgan_runtime.errors import CaptionError
from dmgan_runtime.noise import MAX_SEED, draw_noise
from dmgan_runtime.self_test import make_thumbnail
from dmgan_runtime.tokenizer import Tokenizer
from export.vectors import write_vectors
from tests.web.conftest import ROOT, Node

X = 3.6541528853610088
NAMES = {
    "❤": "red heart",
    "❤\u200d🔥": "heart on fire",
    "👍": "thumbs up",
    "👍🏿": "thumbs up, dark skin tone",
    "🏿": "dark skin tone",
    "👩": "woman",
    "👩\u200d🚀": "woman astronaut",
    "🏴": "black flag",
    "1\u20e3": "keycap 1",
    "é": "e acute",
}


def levels(pixels: str) -> npt.NDArray[np.int64]:
    """RGB of the base64 of RGBA."""
    rgba = np.frombuffer(b64decode(pixels), np.uint8).reshape(-1, 4)
    assert (rgba[:, 3] == 255).all()
    side = int(len(rgba) ** 0.5)
    return rgba[:, :3].reshape(side, side, 3).astype(np.int64)


@pytest.fixture(scope="module")
def vectors(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("vectors") / "vectors.json"
    write_vectors(packaged_bundle(), path, 1000)
    return json.loads(path.read_bytes())


@pytest.fixture(scope="module")
def packaged(node: Node) -> Any:
    return node("open", path=str(packaged_bundle()))["id"]


def test_tokens_and_words_of_1000_captions_are_pythons(node: Node, packaged: Any, vectors: Any) -> None:
    refused = 0
    for caption, entry in ((each["caption"], {**each}) for each in vectors["captions"]):
        del entry["caption"]
        if entry == {"refused": True}:
            refused += 1
            with pytest.raises(CaptionError):
                node("encode", id=packaged, caption=caption)
            continue
        found = node("encode", id=packaged, caption=caption)
        length = found.pop("length")
        assert found.pop("tokens") == entry["tokens"] + [0] * (16 - length)
        assert found | {"tokens": entry["tokens"]} == entry, caption
    assert 0 < refused < 500


def test_emoji_are_read_as_python_reads_them(node: Node) -> None:
    """Captions of aliases, parts of aliases, and what looks like them: words, and the parts that the page shows."""
    random = Random(0)
    pieces = [
        *NAMES,
        *"👍👩❤🏿🏽🚀🔥🏴🇩🇪🦩é☃",
        "\u200d",
        "\ufe0e",
        "\ufe0f",
        "\U000e0067",
        "\U000e007f",
        "a",
        " ",
        "\u20e3",
        "1",
    ]
    tokenizer = Tokenizer.from_captions([*NAMES.values(), "a"], NAMES)
    own = {"vocabulary": tokenizer.words, "aliases": NAMES}
    for number in range(1000):
        caption = "a " + "".join(random.choices(pieces, k=number % 40))
        expected = tokenizer.encode(caption, 9)
        found = node("encode_with", caption=caption, max_words=9, **own)
        assert found.pop("length") == expected.length
        assert [*found.values()] == [expected.tokens.tolist(), *map(list, expected[2:])], caption
        assert [tuple(part) for part in node("split_with", caption=caption, **own)] == list(
            Aliases(NAMES).split(caption)
        )


def from_bits(bits: str) -> npt.NDArray[np.float32]:
    return np.frombuffer(bytes.fromhex(bits), ">f4").astype(np.float32)


def assert_same(found: str, expected: str, truncation: float) -> int:
    """The bits are the same, but for the last one of the tail's, which is the C library's; returns how many differ."""
    ours, pythons = from_bits(found), from_bits(expected)
    tail = np.abs(pythons) > X * truncation * (1 - 1e-6)
    np.testing.assert_array_equal(ours[~tail].view(np.uint32), pythons[~tail].view(np.uint32))
    np.testing.assert_array_max_ulp(ours[tail], pythons[tail], maxulp=1 if truncation == 1 else 2)
    return int((ours != pythons).sum())


def test_the_noise_of_1000_seeds_is_pythons_to_the_bit(node: Node, vectors: Any) -> None:
    widths = {name: vectors[name] for name in ("noise_features", "condition_features")}
    assert len(vectors["noise"]) == 1000
    differ = 0
    for entry in vectors["noise"]:
        found = node("noise", seed=entry["seed"], truncation=entry["truncation"], **widths)
        differ += assert_same(found, entry["bits"], entry["truncation"])
    print(f"{differ} of {1000 * sum(widths.values()):,} numbers differ in their last bit")  # noqa: T201
    assert differ <= 5  # none with glibc 2.36


def test_the_vectors_of_the_bundles_page_hold(node: Node) -> None:
    draws = json.loads((ROOT / "tests" / "golden" / "noise.json").read_bytes())["draws"]
    for draw in draws:
        found = node(
            "noise", seed=draw["seed"], noise_features=24, condition_features=40, truncation=float(draw["truncation"])
        )
        assert_same(found, "".join(draw["values"]).replace(" ", ""), float(draw["truncation"]))


def test_pictures_are_within_the_self_tests_bound(node: Node, packaged: Any, vectors: Any) -> None:
    assert len(vectors["pictures"]) == 4
    for entry in vectors["pictures"]:
        options = {"seed": entry["seed"], "truncation": entry["truncation"]}
        stages = node("generate", id=packaged, caption=entry["caption"], options=options)["stages"]
        assert stages.keys() == entry["levels"].keys() == {"16", "32", "64", "128", "256"}
        for side, pixels in stages.items():
            found = levels(pixels)
            expected = np.frombuffer(b64decode(entry["levels"][side]), np.uint8).reshape(found.shape)
            assert np.abs(found - expected).max() <= 1
            thumbnail = np.frombuffer(make_thumbnail(Image.fromarray(found.astype(np.uint8))), np.uint8).astype(int)
            expected = np.frombuffer(b64decode(entry["thumbnails"][side]), np.uint8)
            assert np.abs(thumbnail - expected).max() <= vectors["tolerance"] == 2


def test_the_vectors_are_what_the_runtime_draws(vectors: Any) -> None:
    """That is, the file holds Python's own numbers: the first and the last seed there are."""
    widths = vectors["noise_features"], vectors["condition_features"]
    by_seed = {entry["seed"]: entry for entry in vectors["noise"]}
    for seed in (0, MAX_SEED):
        entry = by_seed[str(seed)]
        numbers = np.hstack(draw_noise([seed], *widths, entry["truncation"]))[0]
        assert entry["bits"] == numbers.astype(">f4").tobytes().hex()


def test_the_file_is_the_same_every_time(vectors: Any, tmp_path: Path) -> None:
    write_vectors(packaged_bundle(), tmp_path / "again.json", 40)
    again = json.loads((tmp_path / "again.json").read_bytes())
    assert again["noise"] == vectors["noise"][:40]
    assert again["captions"] == vectors["captions"][:40]
    assert again["pictures"] == vectors["pictures"]
