import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from itertools import groupby, islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmgan_runtime.errors import DataError
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.data import BrokenFiles, CaptionedImages, EpochSampler, Example, Split, collate, make_loader
from tests.dmgan_train.data.drawing import noise_split, write_cub

LONG = "one two three four five six seven eight"


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return noise_split(tmp_path_factory.mktemp("pictures"), 10)


def dataset(split: Split, **options) -> CaptionedImages:
    tokenizer = options.pop("tokenizer", None) or Tokenizer.from_captions(split.captions())
    return CaptionedImages(split, tokenizer, **{"resolution": 16, "max_words": 5} | options)


def with_captions(split: Split, *captions: str) -> Split:
    example = split.examples[0]
    return Split("train", split.root, (Example(example.key, example.image, captions, 0),))


def same(first, second) -> bool:
    return (
        torch.equal(first.indices, second.indices)
        and torch.equal(first.tokens, second.tokens)
        and torch.equal(first.images, second.images)
        and torch.equal(first.mirrored, second.mirrored)
    )


def test_a_batch_is_what_it_says(split):
    data = dataset(split)
    batch = collate([data[0, index] for index in (3, 1)])
    assert (batch.images.shape, batch.images.dtype) == ((2, 3, 16, 16), torch.uint8)
    assert (batch.mirrored.shape, batch.mirrored.dtype) == ((2,), torch.bool)
    assert batch.images.float().std() > 10
    assert batch.tokens.shape == (2, 5)
    assert {tensor.dtype for tensor in (batch.tokens, batch.lengths, batch.class_ids, batch.indices)} == {torch.int64}
    assert batch.indices.tolist() == [3, 1]
    assert batch.class_ids.tolist() == [1, 0]
    assert batch.broken == ()
    assert torch.equal((batch.tokens != 0).sum(1), batch.lengths)


def test_an_item_follows_from_seed_epoch_and_index_alone(split):
    data, again, other = dataset(split, seed=1), dataset(split, seed=1), dataset(split, seed=2)
    first = collate([data[3, index] for index in range(10)])
    assert same(first, collate([again[3, index] for index in reversed(range(10))][::-1]))
    assert not same(first, collate([data[4, index] for index in range(10)]))
    assert not same(first, collate([other[3, index] for index in range(10)]))


def test_every_caption_is_drawn_as_often(split):
    data = dataset(with_captions(split, *(f"word{n}" for n in range(4))))
    drawn = Counter(int(data[epoch, 0].tokens[0]) for epoch in range(400))
    assert set(drawn) == {1, 2, 3, 4}
    assert min(drawn.values()) > 60


def test_training_takes_a_random_part_of_a_long_caption_in_order(split):
    data = dataset(with_captions(split, LONG))
    drawn = [tuple(data[epoch, 0].tokens) for epoch in range(100)]
    assert len(set(drawn)) > 20
    assert all(list(tokens) == sorted(set(tokens)) and 0 not in tokens for tokens in drawn)
    assert set(np.ravel(drawn)) == set(range(1, 9))


def test_evaluation_takes_the_first_words_and_the_middle(split):
    data = dataset(with_captions(split, LONG), evaluation=True)
    items = [data[epoch, 0] for epoch in range(5)]
    assert {tuple(item.tokens) for item in items} == {(1, 2, 3, 4, 5)}
    assert all(np.array_equal(item.image, items[0].image) and not item.mirrored for item in items)


def test_captions_without_a_known_word_are_passed_over(split):
    data = dataset(with_captions(split, "unknown", "a red one", "strange"), tokenizer=Tokenizer(["<end>", "red"]))
    assert all(data[epoch, 0].tokens.tolist() == [1, 0, 0, 0, 0] for epoch in range(10))


def test_pairs_have_another_caption_each_time_and_change_nothing_else(split):
    captions = ("one", "two", "three", "unknown")
    split = with_captions(split, *captions)
    known = Tokenizer.from_captions(captions[:3])
    alone, pairs = dataset(split, tokenizer=known), dataset(split, tokenizer=known, pairs=True)
    drawn = Counter()
    for epoch in range(300):
        item, pair = alone[epoch, 0], pairs[epoch, 0]
        assert same(collate([item]), collate([pair]))
        assert collate([item]).second is None
        second = collate([pair]).second
        assert second.lengths.tolist() == [1]
        drawn[int(item.tokens[0]), int(second.tokens[0, 0])] += 1
    assert set(drawn) == {(first, second) for first in (1, 2, 3) for second in (1, 2, 3) if first != second}
    assert min(drawn.values()) > 30


def test_an_only_caption_is_taken_twice_each_time_with_words_of_its_own(split):
    data = dataset(with_captions(split, LONG, "..."), pairs=True)
    pairs = [collate([data[epoch, 0]]) for epoch in range(20)]
    assert all(batch.second.lengths.tolist() == batch.lengths.tolist() == [5] for batch in pairs)
    assert any(not torch.equal(batch.tokens, batch.second.tokens) for batch in pairs)


def test_without_resolutions_no_picture_is_opened(split):
    example = Example("gone", split.root / "gone.png", ("a bird",), 0)
    item = dataset(Split("train", split.root, (example,)), resolution=None)[0, 0]
    assert item.image.size == 0
    assert item.broken == ()


def test_birds_are_cropped_to_their_box(tmp_path):
    from dmgan_train.data import load_split

    split = load_split("cub", write_cub(tmp_path), "train")
    item = dataset(split, augment="none")[0, 0]
    whole = Split("train", tmp_path, (Example("whole", split.examples[0].image, ("a bird",), 0),))
    assert not np.array_equal(item.image, dataset(whole, augment="none")[0, 0].image)


@pytest.fixture
def damaged(tmp_path):
    """Twelve examples: 0 is missing, 1 is truncated, 2 has a box outside the picture, 3 has no known word."""
    split = noise_split(tmp_path, 12)
    zero, one, two, three, *rest = split.examples
    zero.image.unlink()
    one.image.write_bytes(one.image.read_bytes()[:500])
    two = Example(two.key, two.image, two.captions, two.class_id, box=(900.0, 0.0, 5.0, 5.0))
    three = Example(three.key, three.image, ("unheard of",), three.class_id)
    return Split("train", tmp_path, (zero, one, two, three, *rest))


def test_a_broken_example_is_replaced_and_named(damaged):
    tokenizer = Tokenizer.from_captions(damaged.examples[0].captions)
    data = dataset(damaged, tokenizer=tokenizer)
    for index, reason in enumerate(("no such file", "truncated", "holds nothing", "no caption of it has a word")):
        item = data[0, index]
        assert item.position > 3
        assert same(collate([item]), collate([dataset(damaged, tokenizer=tokenizer, pairs=True)[0, index]]))
        assert damaged.examples[item.position] is item.example
        assert str(damaged.examples[index].image) in item.broken[0]
        assert reason in item.broken[0]
        assert item.image.std() > 10
        assert same(collate([item]), collate([dataset(damaged, tokenizer=tokenizer)[0, index]]))


def test_the_loader_stops_once_too_much_is_broken(damaged, caplog):
    tokenizer = Tokenizer.from_captions(damaged.examples[0].captions)
    loader = make_loader(dataset(damaged, tokenizer=tokenizer), 4, broken=BrokenFiles(damaged, limit=3))
    with pytest.raises(DataError, match=r"4 of the .*\(12 pictures\).*at most 3 may be"):
        list(islice(loader, 12))
    assert len(caplog.messages) == len(set(caplog.messages)) == 3  # the error names the fourth


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_where_nothing_can_be_used_is_an_error_of_one_line(tmp_path, workers):
    split = noise_split(tmp_path, 3)
    for example in split.examples:
        example.image.write_bytes(b"")
    with pytest.raises(DataError, match=rf"^{tmp_path}: none of 100 examples .*cannot be read as a picture [^\n]*$"):
        next(make_loader(dataset(split), 2, workers=workers))


@settings(max_examples=50)
@given(length=st.integers(1, 30), batch_size=st.integers(1, 30), start=st.integers(0, 40), seed=st.integers(0, 9))
def test_a_run_goes_on_where_it_was_cut_off(length, batch_size, start, seed):
    if length < batch_size:
        with pytest.raises(DataError, match=f"has {length} examples, too few for one batch of {batch_size}"):
            EpochSampler(length, batch_size, seed)
        return
    whole = list(islice(EpochSampler(length, batch_size, seed), start + 5))
    assert list(islice(EpochSampler(length, batch_size, seed, start), 5)) == whole[start:]


def test_an_epoch_shows_each_example_once():
    sampler = EpochSampler(length=10, batch_size=3, seed=5)
    assert sampler.steps_per_epoch == 3
    batches = list(islice(sampler, 6))
    for epoch, first in enumerate((0, 3)):
        keys = [key for batch in batches[first : first + 3] for key in batch]
        assert {number for number, _ in keys} == {epoch}
        assert len({index for _, index in keys}) == 9
    assert batches[:3] != batches[3:]


@settings(max_examples=50)
@given(class_ids=st.lists(st.integers(0, 5), min_size=1, max_size=20), start=st.integers(0, 30))
def test_an_epoch_by_classes_has_each_class_in_one_piece(class_ids, start) -> None:
    length = len(class_ids)
    whole = list(islice(EpochSampler(length, 1, 3, class_ids=class_ids), start + 2 * length + 5))
    for epoch in range(2):
        order = [index for ((_, index),) in whole[epoch * length : (epoch + 1) * length]]
        assert sorted(order) == list(range(length))
        pieces = [class_id for class_id, _ in groupby(class_ids[index] for index in order)]
        assert len(pieces) == len(set(class_ids))
    assert list(islice(EpochSampler(length, 1, 3, start, class_ids=class_ids), 5)) == whole[start : start + 5]


@given(count=st.integers(1, 4), own=st.integers(2, 3), start=st.integers(0, 7))
def test_the_shares_of_a_batch_are_the_batch(count, own, start) -> None:
    whole = EpochSampler(25, count * own, 3, start)
    shares = [EpochSampler(25, count * own, 3, start, range(rank * own, (rank + 1) * own)) for rank in range(count)]
    for batch, *parts in islice(zip(whole, *shares, strict=False), 6):
        assert batch == [key for part in parts for key in part]


def test_workers_change_nothing(split):
    data = dataset(split, pairs=True)
    alone = list(islice(make_loader(data, 4, seed=3), 6))
    shared = make_loader(data, 4, seed=3, start_step=3, workers=2)
    for one, other in zip(alone[3:], islice(shared, 3), strict=True):
        assert same(one, other)
        assert torch.equal(one.second.tokens, other.second.tokens)
        assert torch.equal(one.second.lengths, other.second.lengths)
    shared.close()


def test_too_little_shared_memory_names_the_remedies(split, monkeypatch):
    def fail(_):  # what PyTorch says where /dev/shm is full
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", fail)
    with pytest.raises(DataError, match=r"too little shared memory .*--shm-size 1g.*--workers 0$"):
        next(make_loader(dataset(split), 2, workers=1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_for_the_whole_group_leave_the_workers_alone(split, number):
    loader = make_loader(dataset(split), 2, workers=2)
    next(loader)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, number)
    assert len(list(islice(loader, 8))) == 8  # more than was read ahead
    loader.close()
    assert not any(worker.is_alive() for worker in workers)


def test_reading_alone_needs_no_tensorboard_and_ends_though_nobody_closes_the_loader(split):
    """Else the process fails."""
    script = """
import sys
from pathlib import Path
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.data import CaptionedImages, Example, Split, make_loader
split = Split("train", Path("."), (Example("0", Path(sys.argv[1]), ("a bird",), 0),) * 4)
dataset = CaptionedImages(split, Tokenizer.from_captions(["a bird"]), resolution=8, max_words=2, cache=True)
loader = make_loader(dataset, 2, workers=1)
next(loader)
assert "tensorboard" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, split.examples[0].image], check=True, timeout=60)


def test_a_loader_leaves_the_global_random_state_alone(split):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    next(make_loader(dataset(split), 4))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_data_set_can_be_sent_to_another_process(split):
    data = dataset(split)
    assert same(collate([pickle.loads(pickle.dumps(data))[2, 1]]), collate([data[2, 1]]))
