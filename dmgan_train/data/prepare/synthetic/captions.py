"""Captions in the language of the CUB-200-2011 captions: lower case, parts and their colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from dmgan_train.data.prepare.synthetic.birds import Bird

_T = TypeVar("_T")

CAPTIONS_PER_IMAGE = 10
MAX_WORDS = 18  # what the birds preset reads

_PARTS = ("crown", "belly", "wing", "bill")
_PART_COUNTS = (2, 3, 3, 3, 3, 4, 4, 4, 4, 4)
_SUBJECTS = ("this bird has", "the bird has", "a bird with")
_PLACES = {
    "sky": ("against the sky", "against a blue sky"),
    "leaves": ("among the leaves", "against a green background"),
    "water": ("by the water", "in front of water"),
    "sand": ("on the sand", "against a sandy background"),
    "snow": ("in the snow", "against a snowy background"),
    "dusk": ("at dusk", "against a pink sky"),
}
_BELLIES = ("belly", "belly", "breast")
_BILLS = ("bill", "bill", "beak")


def write_captions(bird: Bird, rng: np.random.Generator, count: int) -> list[str]:
    """Writes captions of a bird.

    Args:
        bird: What to describe.
        rng: Chooses what each caption names, and how.
        count: How many captions, from 0.

    Returns:
        Captions of at most MAX_WORDS words, lower case and ASCII. Each names two to four of crown, belly, wing and
        bill with their colours; with two of them, also the size. A bird whose size is not named is a medium one, for
        people name what is out of the common. Captions may repeat.
    """
    return [_caption(bird, rng) for _ in range(count)]


def _caption(bird: Bird, rng: np.random.Generator) -> str:
    parts = [_PARTS[index] for index in rng.permutation(len(_PARTS))[: _pick(_PART_COUNTS, rng)]]
    subject = _subject(bird, len(parts) == 2 or bird.size != "medium" or rng.random() < 0.4, rng)
    as_clauses = len(parts) < 4 and rng.random() < 0.25
    caption = f"{subject} {_clauses(bird, parts, rng) if as_clauses else _list(bird, parts, rng)}"
    with_place = f"{caption} {_pick(_PLACES[bird.background], rng)}"
    return with_place if len(with_place.split()) <= MAX_WORDS and rng.random() < 0.7 else caption


def _subject(bird: Bird, names_size: bool, rng: np.random.Generator) -> str:
    subject = _pick(_SUBJECTS, rng)
    if not names_size:
        return subject
    size = "medium sized" if bird.size == "medium" else bird.size
    return subject.replace("bird", f"{size} bird")


def _list(bird: Bird, parts: list[str], rng: np.random.Generator) -> str:
    """Such as: a red crown, a white belly and black wings."""
    *things, last = [_thing(bird, part, rng) for part in parts]
    return f"{', '.join(things)} and {last}"


def _clauses(bird: Bird, parts: list[str], rng: np.random.Generator) -> str:
    """Such as: a red crown, its belly is white and its wings are black."""
    first, *others = parts
    clauses = [f"its {'wings are' if part == 'wing' else f'{part} is'} {bird.colours[part]}" for part in others]
    return f"{_thing(bird, first, rng)}, {' and '.join(clauses)}"


def _thing(bird: Bird, part: str, rng: np.random.Generator) -> str:
    colour = bird.colours[part]
    if part == "wing":
        return f"{colour} wings"
    if part == "belly":
        return f"{indefinite(colour)} {_pick(_BELLIES, rng)}"
    if part == "bill":
        shape = f"{bird.plumage.bill_shape} {colour}" if rng.random() < 0.5 else colour
        return f"{indefinite(shape)} {_pick(_BILLS, rng)}"
    return f"{indefinite(colour)} {part}"


def indefinite(words: str) -> str:
    """The words with the indefinite article before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _pick(options: tuple[_T, ...], rng: np.random.Generator) -> _T:
    return options[int(rng.random() * len(options))]
