from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from dmgan_train.fit import read_data
from dmgan_train.settings import Settings, differences, resolve_settings
from scripts.recipes import VARIANTS, main, only


def _settings(name: str) -> Settings:
    recipe, changes = VARIANTS[name]
    return resolve_settings("tiny", recipe=recipe, overrides=list(changes))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_differs_from_its_recipe_in_what_it_names(name: str) -> None:
    recipe, changes = VARIANTS[name]
    assert set(differences(_settings(recipe), _settings(name))) == {change.partition("=")[0] for change in changes}


def test_fewer_pictures_are_evenly_spread(images: Path) -> None:
    data = read_data(images, None, resolve_settings("tiny"))
    few = only(3, data)
    assert len(few.train) == 3
    assert few.train.examples[0] == data.train.examples[0]
    assert few.train.examples[-1] == data.train.examples[-1]
    assert replace(few, train=data.train) == data
    assert only(None, data) is data
    assert only(len(data.train) + 1, data) is data


def test_every_variant_is_offered() -> None:
    help_text = CliRunner().invoke(main, ["--help"]).output
    assert all(name in help_text for name in VARIANTS)
