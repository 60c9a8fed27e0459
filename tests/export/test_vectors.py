"""`dmgan-export vectors`: what it writes is what the runtime does."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dmgan_runtime import CaptionError, Generator
from dmgan_runtime.noise import MAX_SEED, draw_noise
from dmgan_runtime.self_test import make_thumbnail
from export.commands import main
from tests.bundles import MAX_WORDS, SPEC, build_bundle


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["vectors", *map(str, arguments)], prog_name="dmgan-export")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bundle(tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture(scope="module")
def vectors(bundle: Path) -> Any:
    output = bundle.parent / "vectors.json"
    assert invoke(bundle, "-o", output, "--count", 60).exit_code == 0
    return json.loads(output.read_bytes())


def test_captions_are_encoded_or_refused_as_by_the_runtime(bundle: Path, vectors: Any) -> None:
    kinds = set()
    with Generator.open(bundle, backend="onnxruntime", device="cpu") as generator:
        for entry in vectors["captions"]:
            if "refused" in entry:
                with pytest.raises(CaptionError):
                    generator.encode(entry["caption"])
                kinds.add("refused")
                continue
            encoding = generator.encode(entry["caption"])
            assert entry["tokens"] == encoding.tokens[: encoding.length].tolist()
            assert entry["words"] == list(encoding.used)
            assert entry["unknown_words"] == list(encoding.unknown)
            assert entry["cut_words"] == list(encoding.cut)
            kinds |= {kind for kind in ("unknown_words", "cut_words") if entry[kind]}
    assert kinds == {"refused", "unknown_words", "cut_words"}
    assert vectors["max_words"] == MAX_WORDS


def test_noise_is_that_of_its_seed(vectors: Any) -> None:
    seeds = [int(entry["seed"]) for entry in vectors["noise"]]
    assert len(set(seeds)) == 60
    assert {0, 1, 2**53 + 1, MAX_SEED} <= set(seeds)
    assert any(entry["truncation"] < 1 for entry in vectors["noise"])
    for seed, entry in zip(seeds, vectors["noise"], strict=True):
        drawn = draw_noise([seed], SPEC.noise_features, SPEC.condition_features, entry["truncation"])
        assert entry["bits"] == np.hstack(drawn).astype(">f4").tobytes().hex()


def test_pictures_are_those_of_their_captions(bundle: Path, vectors: Any) -> None:
    assert len(vectors["pictures"]) == 4
    with Generator.open(bundle, backend="onnxruntime", device="cpu") as generator:
        for entry in vectors["pictures"]:
            (made,) = generator.generate(entry["caption"], seed=int(entry["seed"]), truncation=entry["truncation"])
            for side, levels in entry["levels"].items():
                picture = Image.frombytes("RGB", (int(side), int(side)), b64decode(levels))
                assert picture == made.stages[int(side)]
                assert b64decode(entry["thumbnails"][side]) == make_thumbnail(picture)


def test_no_bundle_is_a_users_mistake_and_writes_nothing(tmp_path: Path) -> None:
    result = invoke(tmp_path / "none", "-o", tmp_path / "vectors.json")
    assert result.exit_code == 2
    assert "no such bundle" in result.stderr
    assert not list(tmp_path.iterdir())
