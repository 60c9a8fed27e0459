"""Whether a model of painted birds gives named parts the colours that the caption names.

    python -m scripts.part_colours BUNDLE

For birds of species that training on the painted data of seed 0 never saw, a caption names four parts and their
colours; an image is made, and the colour nearest to each part's place in the usual pose is compared with the named one.
Guessing is right once in nine times (bills: of five colours, but counted among all nine). `all` is the share of birds
with all four right; of painted birds in any size and pose it is over 0.95, for not all parts are at that place.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import click
import numpy as np

from dmgan_runtime import Generator
from dmgan_runtime.cli.common import DmganCommand
from dmgan_train.data.prepare.synthetic import PARTS, Bird, cropped_points, nearest_colour, species_of
from dmgan_train.data.prepare.synthetic.captions import indefinite
from dmgan_train.data.prepare.synthetic.species import Species

_PATCH = 32  # a part's colour is the mean of a square of about this share of the side


def unseen_species(count: int) -> list[Species]:
    """The first species that the painted data of seed 0 keep for testing."""
    return list(islice((one for one in species_of(0) if not one.training), count))


def caption_of(bird: Bird) -> str:
    """A caption that names the colours of all four parts and the shape of the bill, which says where the bill is."""
    crown, belly = (indefinite(f"{bird.colours[part]} {part}") for part in ("crown", "belly"))
    bill = indefinite(f"{bird.plumage.bill_shape} {bird.colours['bill']} bill")
    return f"this bird has {crown}, {belly}, {bird.colours['wing']} wings and {bill}"


def painted_colours(image: np.ndarray, bird: Bird) -> dict[str, str]:
    """The nearest colour name at each part's place.

    Args:
        image: [H, W, 3] uint8, made by a model that was trained on CUB's whole crop.
        bird: Where its parts are in the usual pose.
    """
    side = image.shape[0]
    reach = max(1, side // _PATCH)
    names = {}
    for part, (x, y) in cropped_points(bird, side, share=1.0).items():
        patch = image[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        red, green, blue = patch.reshape(-1, 3).mean(axis=0)
        names[part] = nearest_colour((round(red), round(green), round(blue)))
    return {part: names[part] for part in PARTS}


@click.command(cls=DmganCommand, context_settings={"show_default": True})
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--birds", type=click.IntRange(1, 250), default=250, help="Birds, each of another species.")
def main(bundle: Path, birds: int) -> None:
    """Measure how often the parts of generated birds have the colour that the caption names; prints JSON."""
    right = dict.fromkeys((*PARTS, "all"), 0)
    with Generator.open(bundle) as generator:
        for seed, one in enumerate(unseen_species(birds)):
            bird = Bird(one.plumage)
            (made,) = generator.generate(caption_of(bird), seed=seed)
            painted = painted_colours(np.asarray(made.image), bird)
            hits = {part: painted[part] == colour for part, colour in bird.colours.items()}
            for part, hit in {**hits, "all": all(hits.values())}.items():
                right[part] += hit
    shares = {part: round(count / birds, 3) for part, count in right.items()}
    click.echo(json.dumps({"bundle": bundle.name, "birds": birds, "right": shares}))


if __name__ == "__main__":
    main()
