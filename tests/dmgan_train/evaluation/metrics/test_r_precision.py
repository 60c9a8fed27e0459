from dataclasses import replace

import numpy as np
import pytest
import torch

from dmgan_runtime.errors import DataError
from dmgan_train.data import load_split
from dmgan_train.evaluation.metrics.orders import Order, random_orders
from dmgan_train.evaluation.metrics.r_precision import FOLDS, RPrecision, bootstrap_interval, read_encoders

CPU = torch.device("cpu")
MISMATCHED = 4


@pytest.fixture
def split(images):
    return load_split("image_folder", images, "train")


@pytest.fixture
def encoders(run):
    return read_encoders(run, CPU)


def noise(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def is_right(encoders, judge: RPrecision, image: torch.Tensor, number: int, order: Order, captions: list[str]) -> bool:
    """One image and one caption at a time, in plain numpy."""
    with torch.inference_mode():
        seen = encoders.image(image[None].float() / 127.5 - 1).image[0].double().numpy()
        cosines = []
        for row in judge.draw(number, order):
            encoding = encoders.tokenizer.encode(captions[row], encoders.max_words)
            tokens, length = torch.from_numpy(encoding.tokens)[None], torch.tensor([encoding.length])
            said = encoders.text(tokens, length).sentence[0].double().numpy()
            cosines.append(seen @ said / np.linalg.norm(seen) / np.linalg.norm(said))
    return max(range(len(cosines)), key=lambda at: cosines[at]) == 0


def test_it_equals_brute_force(encoders, split) -> None:
    judge = RPrecision(encoders, split, seed=5, mismatched=MISMATCHED)
    orders, pictures = random_orders(split, 40, 5), noise(40)
    for start in range(0, 40, 16):
        judge.add(judge.image_features(pictures[start : start + 16]), orders[start : start + 16])
    captions = list(split.captions())
    right = [is_right(encoders, judge, pictures[k], k, order, captions) for k, order in enumerate(orders)]
    assert 0 < sum(right) < 40
    folds = [100 * np.mean(right[k * 4 : k * 4 + 4]) for k in range(FOLDS)]
    result = judge.result()
    assert result.value == pytest.approx(np.mean(folds))
    assert result.std == pytest.approx(np.std(folds))
    assert result.references == {"chance": pytest.approx(20)}
    interval = result.details["95% interval"]
    assert interval["from"] < result.value < interval["to"]


def test_the_drawn_captions_are_of_other_classes_and_other_words(encoders, split) -> None:
    judge = RPrecision(encoders, split, seed=0, mismatched=MISMATCHED)
    captions = list(split.captions())
    classes = [example.class_id for example in split.examples for _ in example.captions]
    for number, order in enumerate(random_orders(split, 16, 0)):
        _, *drawn = rows = list(judge.draw(number, order))
        assert order.class_id not in {classes[row] for row in drawn}
        own, *others = (captions[row] for row in rows)
        assert own == order.caption
        assert len(others) == MISMATCHED
        assert order.caption not in others


def test_real_pictures_are_a_reference(encoders, split) -> None:
    judge = RPrecision(encoders, split, seed=0, mismatched=MISMATCHED)
    orders = random_orders(split, 10, 0)
    judge.add(judge.image_features(noise(10)), orders)
    judge.add(judge.image_features(noise(10)), orders, real=True)
    assert judge.result().references["real images"] == pytest.approx(judge.result().value)


def test_a_split_with_too_few_captions_names_the_remedy(encoders, split) -> None:
    with pytest.raises(DataError, match=r"draws 99 captions.* has 11 for .*--split train"):
        RPrecision(encoders, split, seed=0)


def test_too_few_captions_are_found_for_any_class_and_words_before_anything_is_judged(encoders, split) -> None:
    def others(example, caption: str) -> int:
        known = encoders.tokenizer.encode(caption, encoders.max_words).tokens.tolist()
        return sum(
            other.class_id != example.class_id
            and encoders.tokenizer.encode(text, encoders.max_words).tokens.tolist() != known
            for other in one_class.examples
            for text in other.captions
        )

    first, *rest = split.examples
    one_class = replace(split, examples=(first, *(replace(one, class_id=rest[0].class_id) for one in rest)))
    fewest = min(others(example, caption) for example in one_class.examples for caption in example.captions)
    RPrecision(encoders, one_class, seed=0, mismatched=fewest)
    with pytest.raises(DataError, match=f"the split has {fewest} for"):
        RPrecision(encoders, one_class, seed=0, mismatched=fewest + 1)


def resampled_by_loops(right: list[bool], pictures: list[int], seed: int, times: int) -> tuple[float, float]:
    """Draws pictures one by one, and puts all of their images together."""
    rng, names, shares = np.random.default_rng(seed), sorted(set(pictures)), []
    for _ in range(times):
        drawn = [right[k] for name in rng.choice(names, len(names)) for k, own in enumerate(pictures) if own == name]
        shares.append(sum(drawn) / len(drawn))
    low, high = np.percentile(shares, [2.5, 97.5])
    return low, high


def test_the_interval_draws_whole_pictures() -> None:
    """Forty images of ten pictures, of which each is found for all of its captions or for none, tell as much as ten."""
    pictures = [picture for picture in range(10) for _ in range(4)]
    right = [picture < 6 for picture in pictures]
    found, expected = bootstrap_interval(right, pictures, 0), resampled_by_loops(right, pictures, 1, 3000)
    assert found == pytest.approx(expected, abs=0.051)  # a picture of ten at most
    independent = bootstrap_interval(right, list(range(40)), 0)
    assert found[1] - found[0] > 1.5 * (independent[1] - independent[0])


def test_the_interval_of_pictures_with_more_and_fewer_images() -> None:
    rng = np.random.default_rng(4)
    pictures = rng.integers(0, 25, 300).tolist()
    right = (rng.random(300) < 0.5 + 0.02 * np.array(pictures)).tolist()
    found = bootstrap_interval(right, pictures, 0)
    assert found == pytest.approx(resampled_by_loops(right, pictures, 1, 3000), abs=0.015)
