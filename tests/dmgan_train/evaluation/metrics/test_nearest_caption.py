import math
from pathlib import Path

import pytest

from dmgan_train.data import Example, Split
from dmgan_train.evaluation.metrics.nearest_caption import NearestCaption

CAPTIONS = [
    ("a red heart", "an emoji of a heart"),
    ("a waving hand", "a hand, light skin tone"),
    ("a waving hand, dark skin tone",),
    ("a blue heart", "a heart that is blue"),
]
SPLIT = Split("train", Path(), tuple(Example(str(k), Path(), own, k) for k, own in enumerate(CAPTIONS)))


def words(text: str) -> set[str]:
    return set(text.replace(",", "").split())


def brute_force(query: str, leave_out: int | None) -> int:
    documents = [(index, words(caption)) for index, own in enumerate(CAPTIONS) for caption in own]
    weight = {
        word: math.log(1 + len(documents) / sum(word in other for _, other in documents))
        for _, document in documents
        for word in document
    }

    def cosine(document: set[str]) -> float:
        norm = math.sqrt(sum(weight[word] ** 2 for word in document))
        return sum(weight[word] ** 2 for word in document & words(query)) / norm

    return max((cosine(document), -index) for index, document in documents if index != leave_out)[1] * -1


@pytest.mark.parametrize("query", ["a red heart", "a waving hand, light skin tone", "blue", "dark hand", "an emoji"])
@pytest.mark.parametrize("leave_out", [None, 0, 2])
def test_it_is_the_nearest_by_tf_idf(query, leave_out) -> None:
    assert NearestCaption(SPLIT).find(query, leave_out) == brute_force(query, leave_out)


def test_a_caption_finds_itself_unless_it_is_left_out() -> None:
    search = NearestCaption(SPLIT)
    assert search.find("a red heart") == 0
    assert search.find("a red heart", leave_out=0) == 3
