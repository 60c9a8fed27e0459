from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmgan_train.schedule import learning_rates, stages_warming_up
from dmgan_train.settings import GanSettings

GAN = GanSettings(generator_learning_rate=0.5, discriminator_learning_rate=0.25)
WARM_UP = GAN.__replace__(reconstruction_weight=1.0, warm_up_steps=(2, 0, 3), warm_up_learning_rate=2.0)


def test_stages_join_one_after_another() -> None:
    assert [stages_warming_up(step, WARM_UP) for step in range(7)] == [1, 1, 3, 3, 3, 0, 0]
    assert stages_warming_up(0, GAN) == 0


def test_the_rates_of_the_paper_stay() -> None:
    assert {learning_rates(step, 10, GAN) for step in range(10)} == {(0.5, 0.25)}


def test_the_rates_fall_at_the_end_alone() -> None:
    decaying = GAN.__replace__(decay_steps=4)
    rates = [learning_rates(step, 10, decaying) for step in range(10)]
    assert [rate.generator for rate in rates] == [0.5] * 7 + [0.375, 0.25, 0.125]


def test_the_warm_up_has_a_rate_of_its_own() -> None:
    rates = [learning_rates(step, 10, WARM_UP) for step in range(7)]
    assert rates == [(2.0, 0.25)] * 5 + [(0.5, 0.25)] * 2


def test_the_rate_of_the_warm_up_falls_by_one_factor_a_step_once_the_second_stage_has_joined() -> None:
    falling = WARM_UP.__replace__(warm_up_steps=(2, 2, 1), warm_up_learning_rate=4.0, warm_up_final_learning_rate=0.5)
    rates = [learning_rates(step, 10, falling).generator for step in range(7)]
    assert rates == pytest.approx([4.0, 4.0, 4.0, 2.0, 1.0, 0.5, 0.5])


def test_a_warm_up_without_a_rate_of_its_own_falls_from_the_generators() -> None:
    falling = WARM_UP.__replace__(warm_up_steps=(0, 2), warm_up_learning_rate=None, warm_up_final_learning_rate=0.125)
    assert [learning_rates(step, 10, falling).generator for step in range(3)] == pytest.approx([0.5, 0.25, 0.5])


def test_a_warm_up_of_one_stage_keeps_its_rate() -> None:
    alone = WARM_UP.__replace__(warm_up_steps=(3,), warm_up_final_learning_rate=0.5)
    assert [learning_rates(step, 10, alone).generator for step in range(4)] == [2.0, 2.0, 2.0, 0.5]


@given(step=st.integers(0, 99), decay=st.integers(0, 200))
def test_rates_are_positive_and_never_rise(step: int, decay: int) -> None:
    settings = GAN.__replace__(decay_steps=decay)
    now, later = (learning_rates(each, 101, settings) for each in (step, step + 1))
    assert 0 < later.generator <= now.generator <= 0.5
    assert now.generator / now.discriminator == pytest.approx(2)
