from dataclasses import replace

import numpy as np
import pytest
import torch

from dmgan_runtime.errors import DataError
from dmgan_train.data import load_split
from dmgan_train.evaluation.metrics.orders import Order, random_orders
from dmgan_train.evaluation.metrics.r_precision import FOLDS, RPrecision, read_encoders

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


def test_the_drawn_captions_are_of_other_classes_and_other_words(encoders, split) -> None:
    judge = RPrecision(encoders, split, seed=0, mismatched=MISMATCHED)
    captions = list(split.captions())
    for number, order in enumerate(random_orders(split, 16, 0)):
        own, *others = (captions[row] for row in judge.draw(number, order))
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
