"""Test vectors of a bundle: its tokens, noise and pictures, for readers in other languages to be held to."""

from __future__ import annotations

import random
import sys
import unicodedata
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dmgan_runtime import Generator
from dmgan_runtime.errors import CaptionError
from dmgan_runtime.noise import MAX_SEED, draw_noise
from dmgan_runtime.self_test import TOLERANCE, make_thumbnail
from dmgan_runtime.tokenizer import Tokenizer

VECTORS_VERSION = "1.0"
PICTURES = 4

_ABOUT = (
    "Test vectors of a dmgan bundle, whose docs/bundle.md says what they mean. A caption has the tokens of the text"
    " encoder, padding left out, and the words read, unknown and cut; or it is refused, because the model knows no word"
    " of it. There are aliases in them, if the bundle has some."
    " Noise is z and then the conditioning noise, eight hexadecimal digits a number, the bits of a float32;"
    " where the draw was over 3.654 before truncation, the last bit is the C library's."
    " A picture's levels are base64 of its bytes, row by row, red, green and blue, by resolution; its thumbnails"
    " are as in the manifest's self_test, and may be tolerance levels off. Seeds are text, because they have 64 bits."
)
_SEPARATORS = (
    " ", " ", " ", "  ", ", ", ". ", "-", "'", "/", "\t", "\n", "\u00a0", "\u2009", "\u3000", "_", "",
    "\u200d", "\ufe0f",
)  # fmt: skip
_STRANGE = (
    "caf\u00e9", "cafe\u0301", "\u9ce5", "\u212a", "\u0130", "STRASSE", "stra\u00dfe", "\u039f\u0394\u039f\u03a3",
    "\u03a3", "\ufb01sh", "\u0661\u0662", "\u00b2", "\u2167", "\uff21\uff22", "\U0001d400", "\U0001f426",
    "\u05e9\u05dc",
    "\u0928\u092e\u0938\u094d\u0924\u0947", "\u1fbc", "\u01c5", "\u13a0", "x\u200dy", "\u00aa", "\u0345", "7",
    "\U0001f1e9\U0001f1ea", "\U0001f3f4\U000e0067\U000e0062\U000e007f", "\U0001f3ff", "\U0001faea", "\u2603\ufe0f",
)  # fmt: skip
_SEEDS = (0, 1, 2**32 - 1, 2**32, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, MAX_SEED)
_OLD = unicodedata.ucd_3_2_0  # what has had a meaning since 2002 means the same to every library


def write_vectors(bundle: Path, destination: Path, count: int) -> None:
    """Writes the vectors of a bundle as JSON.

    Args:
        bundle: A folder or .zip with fp32 graphs, which ONNX Runtime runs on the CPU.
        destination: The file to write.
        count: How many captions, and how many seeds.

    Raises:
        BundleError, BackendError, EngineError: if the bundle cannot be opened or run.
        OSError: if the file cannot be written.
    """
    with Generator.open(bundle, backend="onnxruntime", device="cpu", precision="fp32") as generator:
        content = msgspec.json.encode(make_vectors(generator, count))
    destination.write_bytes(content + b"\n")


def make_vectors(generator: Generator, count: int) -> dict[str, Any]:
    """The vectors of an open bundle, the same at every call."""
    model = generator.manifest.model
    captions = [_describe(generator, caption) for caption in _captions(generator.tokenizer, count)]
    readable = [entry["caption"] for entry in captions if "tokens" in entry]
    source = random.Random(1)  # noqa: S311
    seeds = [*_SEEDS, *(source.randrange(MAX_SEED + 1) for _ in range(count - len(_SEEDS)))][:count]
    truncations = random.Random(2)  # noqa: S311
    draws = [(seed, 1.0 if place % 4 else truncations.uniform(0.01, 1)) for place, seed in enumerate(seeds)]
    return {
        "about": _ABOUT,
        "version": VECTORS_VERSION,
        "name": generator.manifest.name,
        "max_words": generator.manifest.tokenizer.max_words,
        "noise_features": model.noise_features,
        "condition_features": model.condition_features,
        "tolerance": TOLERANCE["fp32"],
        "captions": captions,
        "noise": [_draw(generator, seed, truncation) for seed, truncation in draws],
        "pictures": [
            _generate(generator, caption, *draw)
            for caption, draw in zip(readable[:PICTURES], draws[:PICTURES], strict=False)
        ],
    }


def _captions(tokenizer: Tokenizer, count: int) -> Iterator[str]:
    """Captions of known, unknown and strange words and of aliases, and every twentieth of any characters at all."""
    source = random.Random(0)  # noqa: S311
    alphabet = [c for c in map(chr, range(sys.maxunicode + 1)) if _OLD.category(c) not in ("Cn", "Cs", "Co")]
    known = [word for word in tokenizer.words[1:] if word]
    aliases = list(tokenizer.aliases)
    for number in range(count):
        if number % 20 == 19:
            yield "".join(source.choices(alphabet, k=source.randrange(40)))
            continue
        words = []
        for _ in range(source.randint(1, 24)):
            kind = source.random()
            if kind < 0.2 and aliases:
                alias = source.choice(aliases)
                words.append(alias[0] + source.choice(("", "\ufe0e", "\ufe0f")) + alias[1:])
            elif kind < 0.8 and known:
                words.append(source.choice((str.lower, str.upper, str.title))(source.choice(known)))
            elif kind < 0.9:
                words.append("".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(1, 9))))
            else:
                words.append(source.choice(_STRANGE))
        yield "".join(word + source.choice(_SEPARATORS) for word in words)


def _describe(generator: Generator, caption: str) -> dict[str, Any]:
    try:
        encoding = generator.encode(caption)
    except CaptionError:
        return {"caption": caption, "refused": True}
    return {
        "caption": caption,
        "tokens": encoding.tokens[: encoding.length].tolist(),
        "words": encoding.used,
        "unknown_words": encoding.unknown,
        "cut_words": encoding.cut,
    }


def _draw(generator: Generator, seed: int, truncation: float) -> dict[str, Any]:
    model = generator.manifest.model
    numbers = np.hstack(draw_noise([seed], model.noise_features, model.condition_features, truncation))[0]
    bits = "".join(f"{each:08x}" for each in numbers.view(np.uint32).tolist())
    return {"seed": str(seed), "truncation": truncation, "bits": bits}


def _generate(generator: Generator, caption: str, seed: int, truncation: float) -> dict[str, Any]:
    (generation,) = generator.generate(caption, seed=seed, truncation=truncation)
    pictures = generation.stages.items()
    return {
        "caption": caption,
        "seed": str(seed),
        "truncation": truncation,
        "levels": {str(side): b64encode(picture.tobytes()).decode() for side, picture in pictures},
        "thumbnails": {str(side): b64encode(make_thumbnail(picture)).decode() for side, picture in pictures},
    }
