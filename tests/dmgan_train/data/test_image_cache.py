"""Pictures from memory are the pictures from disk."""

import multiprocessing
from itertools import islice
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

from dmgan_runtime.errors import DataError
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.data import CaptionedImages, load_split, make_loader
from tests.training import write_images


@pytest.fixture
def split(tmp_path):
    return load_split("image_folder", write_images(tmp_path / "squares"), "train", None)


def dataset(split, augment, *, cache):
    tokenizer = Tokenizer.from_captions(split.captions())
    return CaptionedImages(split, tokenizer, resolution=32, max_words=6, augment=augment, cache=cache)


@pytest.mark.parametrize("augment", ["none", "flip", "crop_flip"])
def test_cached_items_are_the_same(split, augment) -> None:
    fresh, cached = (dataset(split, augment, cache=cache) for cache in (False, True))
    for epoch in (0, 3):
        for index in range(len(split)):
            ours, theirs = cached[epoch, index], fresh[epoch, index]
            assert ours.tokens.tolist() == theirs.tokens.tolist()
            assert ours.mirrored == theirs.mirrored
            np.testing.assert_array_equal(ours.image, theirs.image)


def test_files_are_read_once(split) -> None:
    cached = dataset(split, "none", cache=True)
    for example in split.examples:
        example.image.unlink()
    assert cached[0, 0].image.shape == (32, 32, 3)


def test_a_broken_file_is_replaced_as_from_disk(split) -> None:
    split.examples[2].image.write_bytes(b"not a picture")
    fresh, cached = (dataset(split, "none", cache=cache)[0, 2] for cache in (False, True))
    assert fresh.broken == cached.broken
    assert "cannot be read" in cached.broken[0]
    assert fresh.position == cached.position


def test_nothing_but_broken_files_is_an_error(split) -> None:
    for example in split.examples:
        example.image.write_bytes(b"")
    with pytest.raises(DataError, match="can be used"):
        dataset(split, "none", cache=True)[0, 0]


def test_processes_share_the_pixels(split) -> None:
    fresh, cached = (dataset(split, "none", cache=cache) for cache in (False, True))
    pixels = len(split) * 32 * 32 * 3
    assert len(ForkingPickler.dumps(cached)) < len(ForkingPickler.dumps(fresh)) + pixels / 10


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_started_in_any_way_processes_read_the_same(split, method) -> None:
    before = multiprocessing.get_start_method(allow_none=True)
    data = dataset(split, "crop_flip", cache=True)
    multiprocessing.set_start_method(method, force=True)
    try:
        read = make_loader(data, 4, workers=1)
        for ours, theirs in zip(islice(read, 3), make_loader(data, 4), strict=False):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.tokens, theirs.tokens)
        read.close()
    finally:
        multiprocessing.set_start_method(before, force=True)
