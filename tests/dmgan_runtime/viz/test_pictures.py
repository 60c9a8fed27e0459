from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from dmgan_runtime.results import to_pil
from dmgan_runtime.viz.pictures import enlarge, grid


def plain(colour: str, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new("RGB", size, colour)


@pytest.mark.parametrize(("value", "level"), [(-1, 0), (1, 255), (-7, 0), (7, 255), (-1 + 0.49 / 127.5, 0), (0.2, 153)])
def test_levels_are_clipped_and_rounded(value: float, level: int) -> None:
    picture = to_pil(np.full((3, 2, 2), value, dtype=np.float32))
    assert picture.getextrema() == ((level, level),) * 3


@given(hnp.arrays(np.uint8, (3, 4, 5)))
def test_every_level_survives(levels: np.ndarray) -> None:
    picture = to_pil((levels / 127.5 - 1).astype(np.float32))
    assert picture.mode == "RGB"
    assert picture.size == (5, 4)
    np.testing.assert_array_equal(np.asarray(picture), levels.transpose(1, 2, 0))


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (4, 4, 3), (4, 4)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"pass \[3, H, W\]"):
        to_pil(np.zeros(shape, dtype=np.float32))


def test_a_grid_shows_its_pictures_in_rows() -> None:
    sheet = grid([plain("red"), plain("green"), plain("blue")], columns=2)
    colours = [sheet.getpixel(point) for point in [(14, 14), (36, 14), (14, 36), (36, 36)]]
    assert colours == [(255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)]


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (4, 2, 2), (5, 3, 2), (10, 4, 3)])
def test_a_grid_is_about_square(count: int, columns: int, rows: int) -> None:
    width, height = grid([plain("red")] * count).size
    assert ((width - 6) // 22, (height - 6) // 22) == (columns, rows)


@settings(max_examples=40)
@given(st.lists(st.text(), min_size=1, max_size=3))
def test_any_caption_can_be_drawn(captions: list[str]) -> None:
    bare = grid([plain("red")] * len(captions), columns=1)
    sheet = grid([plain("red")] * len(captions), captions, columns=1)
    assert sheet.width >= 96
    assert sheet.height > bare.height


def test_a_long_caption_is_wrapped_and_cut_and_stays_under_its_picture() -> None:
    one, other = (grid([plain("red", (128, 128))], [text]) for text in ("word " * 500, "word " * 5000))
    assert one.size == other.size
    sheet = np.asarray(grid([plain("red")] * 2, ["W" * 500, ""]))
    under_the_other = sheet[6 + 16 :, 6 + 96 + 6 :]
    assert (under_the_other == 255).all()


def label_of(caption: str) -> list[int]:
    """How wide each line of a picture's label is, in pixels."""
    ink = (np.asarray(grid([plain("white", (96, 96))], [caption]).convert("L")) < 128)[6 + 96 :]
    tops = np.flatnonzero(np.diff(np.r_[False, ink.any(axis=1)].astype(int)) == 1)
    lines = np.split(ink, tops[1:])
    return [int(np.flatnonzero(line.any(axis=0)).max()) for line in lines]


def test_a_label_breaks_at_spaces_but_not_at_no_break_spaces() -> None:
    """There is room for "tall heart (seed", so the 5 of "(seed 5)" stands below it, or all of it does."""
    plain_space, no_break, broken = (
        label_of(text) for text in ("tall heart (seed 5)", "tall heart (seed\xa05)", "tall  \nheart \t(seed\xa05)")
    )
    assert [len(lines) for lines in (plain_space, no_break, broken)] == [2, 2, 2]
    assert no_break[0] < plain_space[0]
    assert no_break[1] > plain_space[1]
    assert broken == no_break


def test_joiners_of_emoji_are_not_drawn() -> None:
    one, other = (grid([plain("red")], [text]) for text in ("woman rocket", "woman \u200d rocket"))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(("images", "captions"), [(0, None), (2, 1), (1, 2)])
def test_a_grid_needs_as_many_captions_as_pictures(images: int, captions: int | None) -> None:
    with pytest.raises(ValueError, match=f"{images} images"):
        grid([plain("red")] * images, None if captions is None else ["a"] * captions)


def test_enlarging_repeats_pixels() -> None:
    small = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    assert np.asarray(enlarge(small, 4))[::2, ::2].tolist() == np.asarray(small).tolist()
