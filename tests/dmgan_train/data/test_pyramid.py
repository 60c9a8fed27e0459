"""The pyramid of a batch is Pillow's, pixel by pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps

from dmgan_train.data.pyramid import from_levels, pyramid, to_levels

PLAIN = torch.tensor([False])


def expected(pixels: np.ndarray, side: int, mirrored: bool) -> torch.Tensor:
    image = Image.fromarray(pixels)
    image = ImageOps.mirror(image) if mirrored else image
    return torch.from_numpy(np.array(image.resize((side, side), Image.Resampling.BILINEAR))).permute(2, 0, 1)


def check(pixels: np.ndarray, mirrored: bool, resolutions: tuple[int, ...]) -> None:
    batch = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    levels = pyramid(batch, torch.tensor([mirrored]), resolutions)
    for side, level in zip(resolutions, levels, strict=True):
        assert torch.equal(level, from_levels(expected(pixels, side, mirrored))[None])


@settings(max_examples=50, deadline=None)
@given(
    pixels=arrays(np.uint8, (32, 32, 3), elements=st.one_of(st.sampled_from([0, 1, 254, 255]), st.integers(0, 255))),
    mirrored=st.booleans(),
)
def test_each_level_is_that_of_pillow(pixels, mirrored) -> None:
    check(pixels, mirrored, (2, 4, 8, 16, 32))


@pytest.mark.parametrize("resolutions", [(64, 128, 256), (8, 16, 32, 64, 128, 256), (16,), (64, 128)])
def test_the_sizes_of_the_paper_are_those_of_pillow(resolutions) -> None:
    for seed, mirrored in enumerate((False, True)):
        pixels = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        check(pixels, mirrored, resolutions)


def test_the_networks_get_what_they_take() -> None:
    channels_last = torch.randint(256, (5, 16, 16, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    mirrored = torch.tensor([True, False, True, False, False])
    levels = pyramid(channels_last, mirrored, (4, 8, 16))
    assert [level.shape for level in levels] == [(5, 3, 4, 4), (5, 3, 8, 8), (5, 3, 16, 16)]
    assert all(level.dtype == torch.float32 and level.is_contiguous() for level in levels)
    assert torch.equal(to_levels(levels[-1][1]), channels_last[1])
    assert torch.equal(to_levels(levels[-1][0]), channels_last[0].flip(-1))


def test_black_is_minus_one_and_white_is_one() -> None:
    for value, expected_value in ((0, -1), (255, 1)):
        (small, large) = pyramid(torch.full((1, 3, 4, 4), value, dtype=torch.uint8), PLAIN, (2, 4))
        assert set(small.unique().tolist()) == set(large.unique().tolist()) == {expected_value}
