"""The measure sees the colours that are there."""

import json
import pickle
import re
from itertools import islice

import numpy as np
import pytest
from click.testing import CliRunner

from dmgan_train.data.prepare.synthetic import PARTS, Bird, bounding_box, paint, paint_dataset
from dmgan_train.data.prepare.synthetic.species import draw_species
from dmgan_train.data.transforms import cub_crop
from scripts.part_colours import caption_of, main, painted_colours, unseen_species


@pytest.fixture(scope="module")
def birds() -> list[Bird]:
    return [Bird(species.plumage) for species in islice(draw_species(np.random.default_rng(0)), 24)]


def test_painted_birds_have_nearly_all_colours_right(birds) -> None:
    right = 0
    for bird in birds:
        picture = cub_crop(paint(bird, np.random.default_rng(1)), bounding_box(bird)).resize((64, 64))
        found = painted_colours(np.asarray(picture), bird)
        right += sum(found[part] == bird.colours[part] for part in PARTS)
    assert right >= 0.95 * len(PARTS) * len(birds)


def test_a_caption_names_every_part_with_its_colour(birds) -> None:
    for bird in birds:
        caption = caption_of(bird)
        for part, colour in bird.colours.items():
            assert re.search(rf"\b{colour} {part}s?\b", caption)
        assert f" {bird.plumage.bill_shape} {bird.colours['bill']} bill" in caption


def test_the_command_prints_a_share_for_each_part(bundle) -> None:
    result = CliRunner().invoke(main, [str(bundle), "--birds", "2"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["right"].keys() == {*PARTS, "all"}


def test_the_species_are_those_that_the_painted_data_keep_for_testing(tmp_path) -> None:
    paint_dataset(tmp_path / "birds", count=13 * 4)
    keys = pickle.loads((tmp_path / "birds" / "test" / "filenames.pickle").read_bytes())
    kept = dict.fromkeys(key.split("/")[0].partition(".")[2] for key in keys)
    assert list(kept) == [species.name for species in unseen_species(len(kept))]
