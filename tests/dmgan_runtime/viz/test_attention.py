from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dmgan_runtime import Gates, Generation, Generator, SettingsError
from dmgan_runtime.viz.attention import draw_attention, draw_top_words, heat_map


def generation_of(words: tuple[str, ...], attention: np.ndarray, writing: np.ndarray | None) -> Generation:
    picture = Image.new("RGB", (16, 16), "grey")
    return Generation(
        caption=" ".join(words),
        seed=1,
        image=picture,
        stages={16: picture},
        words=words,
        unknown_words=(),
        cut_words=(),
        attention={16: attention},
        gates={16: Gates(writing=writing, response=None)},
    )


def one_hot(words: int, chosen: int) -> np.ndarray:
    attention = np.zeros((words, 8, 8), np.float32)
    attention[chosen] = 1
    return attention


def test_pictures_of_a_real_generation(generator: Generator) -> None:
    (generation,) = generator.generate("a small red heart", seed=1, attention=True)
    maps, words = draw_attention(generation), draw_top_words(generation)
    assert maps.width > 5 * 144  # the picture and four words in a row, for each of two stages
    assert maps.height > 2 * 144
    assert words.height > 2 * 144


def test_the_word_that_is_read_is_bright() -> None:
    sheets = [
        np.asarray(draw_attention(generation_of(("red", "heart"), one_hot(2, chosen), None))).astype(int)
        for chosen in (0, 1)
    ]
    bright = [np.argwhere((sheet[:, :, 0] > 220) & (sheet[:, :, 2] < 180)) for sheet in sheets]
    assert bright[0][:, 1].max() < bright[1][:, 1].min()


def test_top_words_are_ranked() -> None:
    """The longest bar is the top one, on either side."""
    words = ("a", "small", "red", "heart", "and", "square")
    writing = np.array([0.1, 0.2, 0.9, 0.3, 0.05, 0.4], np.float32)
    chart = np.asarray(draw_top_words(generation_of(words, one_hot(6, 3), writing), count=2))
    blue = (chart == (70, 130, 180)).all(axis=-1)
    left, right = blue[:, : chart.shape[1] * 2 // 3].sum(axis=1), blue[:, chart.shape[1] * 2 // 3 :].sum(axis=1)
    rows = np.flatnonzero(left)
    assert left[rows[0]] > 2 * left[rows[-1]] > 0  # 90% over 40%
    assert right[rows[0]] > 20 * right[rows[-1]] > 0  # all over nothing, which is a line


def test_without_a_writing_gate_there_is_one_chart_less() -> None:
    attention = one_hot(2, 0)
    with_gate = draw_top_words(generation_of(("red", "heart"), attention, np.array([0.5, 0.5], np.float32)))
    assert draw_top_words(generation_of(("red", "heart"), attention, None)).width < with_gate.width


def test_a_heat_map_tints_what_is_looked_at() -> None:
    weights = np.zeros((4, 4), np.float32)
    weights[:2] = 1
    tinted = np.asarray(heat_map(Image.new("RGB", (8, 8), "grey"), weights, 32)).astype(int)
    assert tinted[2, 16].sum() > tinted[29, 16].sum() + 200


@settings(max_examples=20)
@given(st.lists(st.text("ab_\x1b\u202e\n", min_size=1, max_size=200), min_size=1, max_size=20))
def test_any_words_can_be_drawn(words: list[str]) -> None:
    attention = np.full((len(words), 8, 8), 1 / len(words), np.float32)
    generation = generation_of(tuple(words), attention, np.linspace(0, 1, len(words), dtype=np.float32))
    assert draw_attention(generation).width < 2000
    assert draw_top_words(generation).width < 2000


def test_attention_that_was_not_asked_for_is_an_error(generator: Generator) -> None:
    for how in ({"attention": False}, {"attention": True, "resolution": 8}):
        (generation,) = generator.generate("a heart", **how)  # type: ignore[arg-type]
        for draw in (draw_attention, draw_top_words):
            with pytest.raises(SettingsError, match="generate it with attention=True"):
                draw(generation)


def test_no_top_words_are_an_error(generator: Generator) -> None:
    (generation,) = generator.generate("a heart", attention=True)
    with pytest.raises(SettingsError, match="count is 0"):
        draw_top_words(generation, count=0)
