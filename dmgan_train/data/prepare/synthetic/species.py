"""Made-up species: which colours they wear and what they are called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dmgan_train.data.prepare.synthetic.birds import BILL_COLOURS, BILL_SHAPES, Plumage
from dmgan_train.data.prepare.synthetic.colours import PALETTE

MAX_SPECIES = 1000  # of the 2,560 plumages that the rules below leave: drawing untaken ones stays fast

_FAMILIES = (
    "Warbler", "Sparrow", "Finch", "Bunting", "Jay", "Tanager", "Oriole", "Wren", "Flycatcher", "Kingfisher", "Vireo",
    "Swallow", "Thrasher", "Grosbeak", "Cuckoo", "Starling", "Towhee", "Waxwing", "Nuthatch", "Creeper", "Thrush",
    "Lorikeet", "Barbet", "Trogon", "Bee_eater", "Roller", "Honeyeater", "Manakin", "Sunbird", "Whistler",
)  # fmt: skip
_EPITHETS = {"crown": "crowned", "belly": "bellied", "wing": "winged"}
_ORIGINS = (
    "", "Northern", "Southern", "Eastern", "Western", "Island", "Mountain", "Forest", "Meadow", "River", "Coastal",
    "Lesser", "Greater",
)  # fmt: skip


class Species(NamedTuple):
    """A kind of bird.

    Attributes:
        name: As in CUB's file names, such as `Red_crowned_Warbler`; unique.
        plumage: What its birds look like; no other species has the same four colours.
        training: Whether its images are for training; else they are for testing.
    """

    name: str
    plumage: Plumage
    training: bool


def draw_species(rng: np.random.Generator) -> Iterator[Species]:
    """Makes up species, up to MAX_SPECIES: of every four the second is for testing, as of CUB's 200 are 50.

    Within the first nine training species, and within each nine that follow, every colour of the palette comes as
    crown, as belly and as wing, and every bill colour comes too. The belly has another colour than the crown, the
    wings and the bill, so that neighbouring parts can be told apart.
    """
    plumages: set[tuple[str, ...]] = set()
    names: set[str] = set()
    rounds: dict[bool, list[Plumage]] = {True: [], False: []}
    for number in range(MAX_SPECIES):
        training = number % 4 != 1
        if not rounds[training]:
            rounds[training] = _draw_round(plumages, rng)
        plumage = rounds[training].pop()
        yield Species(_draw_name(plumage, names, rng), plumage, training)


def _draw_round(taken: set[tuple[str, ...]], rng: np.random.Generator) -> list[Plumage]:
    """Draws as many plumages as there are colours, none of them taken."""
    palette = list(PALETTE)
    bills = [BILL_COLOURS[index % len(BILL_COLOURS)] for index in range(len(palette))]
    while True:
        belly = _shuffled(palette, rng)
        crown, wing, bill = (_shuffled_apart(colours, belly, rng) for colours in (palette, palette, bills))
        drawn = list(zip(crown, belly, wing, bill, strict=True))
        if taken.isdisjoint(drawn):
            taken.update(drawn)
            return [Plumage(*colours, BILL_SHAPES[rng.integers(len(BILL_SHAPES))]) for colours in drawn]


def _shuffled_apart(colours: list[str], neighbours: list[str], rng: np.random.Generator) -> list[str]:
    """Shuffles until no colour stands where its neighbour has the same (after three attempts on average)."""
    while True:
        shuffled = _shuffled(colours, rng)
        if all(colour != neighbour for colour, neighbour in zip(shuffled, neighbours, strict=True)):
            return shuffled


def _shuffled(colours: list[str], rng: np.random.Generator) -> list[str]:
    return [colours[index] for index in rng.permutation(len(colours))]


def _draw_name(plumage: Plumage, taken: set[str], rng: np.random.Generator) -> str:
    """Names a species after one of its parts, with a family; and a place of origin once that is taken."""
    for origin in _ORIGINS:
        for part in rng.permutation(list(_EPITHETS)):
            epithet = f"{getattr(plumage, part).capitalize()}_{_EPITHETS[part]}"
            for family in rng.permutation(_FAMILIES)[:4]:
                name = f"{origin}_{epithet}_{family}".lstrip("_")
                if name not in taken:
                    taken.add(name)
                    return name
    raise RuntimeError("there are too few names for so many species")
