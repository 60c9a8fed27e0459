import json
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dmgan_train.data import Example, Split, load_split
from dmgan_train.evaluation.metrics.orders import every_caption, photographed, random_orders
from dmgan_train.settings import DataSettings


class View(NamedTuple):
    """What is asked of a model about how it sees real pictures."""

    resolution: int
    data: DataSettings = DataSettings(augment="none")


def split_of(tmp_path, sizes: list[int]) -> Split:
    captions = [tuple(f"picture {index} caption {k}" for k in range(size)) for index, size in enumerate(sizes)]
    return Split("test", tmp_path, tuple(Example(str(k), tmp_path, own, k // 2) for k, own in enumerate(captions)))


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6), count=st.integers(1, 30), seed=st.integers(0, 99))
def test_every_example_is_generated_from_equally_often_with_its_own_captions(
    tmp_path_factory, sizes, count, seed
) -> None:
    split = split_of(tmp_path_factory.getbasetemp(), sizes)
    orders = random_orders(split, count, seed)
    assert len(orders) == count
    assert orders == random_orders(split, count, seed)
    assert [order.seed for order in orders] == list(range(seed, seed + count))
    times = Counter(order.example for order in orders)
    assert max(times.values()) - min(times[index] for index in range(len(sizes))) <= 1
    assert all(order.caption in split.examples[order.example].captions for order in orders)
    assert all(order.class_id == order.example // 2 for order in orders)


def test_every_caption_comes_once_or_evenly_spread(tmp_path) -> None:
    split = split_of(tmp_path, [3, 1, 2])
    assert [order.caption for order in every_caption(split, 100, 0)] == list(split.captions())
    assert [order.example for order in every_caption(split, 3, 0)] == [0, 0, 2]


def test_real_pictures_are_those_of_the_files(images) -> None:
    split = load_split("image_folder", images, "train")
    batches = list(photographed(split, View(36), 3, "pictures", lambda images: images))
    assert [index for indices, _ in batches for index in indices] == list(range(8))
    pictures = torch.cat([batch for _, batch in batches])
    for index, picture in enumerate(pictures):
        expected = np.asarray(Image.open(split.examples[index].image))
        assert np.array_equal(picture.permute(1, 2, 0).numpy(), expected)


def test_a_broken_picture_is_left_out_with_its_index(tmp_path) -> None:
    for index in range(4):
        Image.new("RGB", (8, 8), (index * 60, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes(b"no picture")
    lines = [{"file_name": f"{index}.png", "caption": f"picture {index}"} for index in range(4)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    split = load_split("image_folder", tmp_path, "train")
    ((indices, pictures),) = photographed(split, View(8), 4, "pictures", lambda images: images)
    assert indices == [0, 2, 3]
    assert [int(picture[0, 0, 0]) for picture in pictures] == [0, 120, 180]
