from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmgan_runtime.errors import DataError
from dmgan_train.data import load_split
from dmgan_train.evaluation.metrics.diversity import (
    IMAGES_A_CAPTION,
    FeatureSpread,
    diversity_orders,
    measure_diversity,
)
from tests.dmgan_train.evaluation.metrics.network import flat_network


def spread_of(*batches: torch.Tensor) -> FeatureSpread:
    spread = FeatureSpread()
    for batch in batches:
        spread.add(batch)
    return spread


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(2, 8))
def test_it_is_the_mean_over_the_pairs(seed, count) -> None:
    features = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    pairs = [1 - torch.cosine_similarity(one, other, dim=0) for one, other in combinations(features, 2)]
    assert spread_of(*features.split(3)).mean_distance() == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-9)


def test_equal_images_of_a_caption_have_none() -> None:
    captions = torch.eye(3).repeat_interleave(IMAGES_A_CAPTION, dim=0)
    result = measure_diversity([captions[:13], captions[13:]], spread_of(torch.eye(3)), flat_network())
    assert result.value == pytest.approx(0, abs=1e-9)
    assert result.references["images of different captions"] == pytest.approx(1)
    assert result.references["different real images"] == pytest.approx(1)
    assert result.protocol["captions"] == 3


def test_a_caption_is_generated_from_with_ten_seeds_in_a_row(images) -> None:
    orders = diversity_orders(load_split("image_folder", images, "train"), images=40, seed=7)
    assert len(orders) == 40
    for first in range(0, 40, IMAGES_A_CAPTION):
        part = orders[first : first + IMAGES_A_CAPTION]
        assert len({order.caption for order in part}) == 1
        assert len({order.seed for order in part}) == IMAGES_A_CAPTION
    assert len({order.example for order in orders}) == 4


def test_one_real_image_is_too_few() -> None:
    with pytest.raises(DataError, match="1 could be read; it needs two"):
        measure_diversity([torch.rand(20, 3)], spread_of(torch.rand(1, 3)), flat_network())
