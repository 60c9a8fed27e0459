import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dmgan_runtime.errors import DataError
from dmgan_train.data import load_split
from dmgan_train.data.pyramid import to_levels
from dmgan_train.evaluation.metrics.gallery import Gallery, Target, shares
from dmgan_train.evaluation.metrics.retrieval import LAB, Retrieval, degrade, wrong_targets
from dmgan_train.settings import DataSettings
from tests.dmgan_train.evaluation.metrics.network import flat_network

NETWORK = flat_network()
SHAPES = ("hand", "foot", "ear")
TONES = {"light": 220, "medium": 150, "dark": 60}


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """Three shapes in three tones, one tone of each held out, and a shape that has no tones."""
    root = tmp_path_factory.mktemp("drawings")
    lines = []
    for place, shape in enumerate(SHAPES):
        for number, (tone, level) in enumerate(TONES.items()):
            pixels = np.full((32, 32, 3), 255, dtype=np.uint8)
            pixels[8 * place : 8 * place + 12, 4:28] = (level, level // 2, 0)
            Image.fromarray(pixels).save(root / f"{shape}-{tone}.png")
            split = "test" if number == place else "train"
            caption = f"{shape}, one {shape}y thing with {tone} skin"
            lines.append({"file_name": f"{shape}-{tone}.png", "caption": caption, "class": shape, "split": split})
    Image.new("RGB", (32, 32), (0, 0, 200)).save(root / "sea.png")
    lines.append({"file_name": "sea.png", "caption": "blue sea", "class": "sea", "split": "train"})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {"train": load_split("image_folder", root, "train"), "test": load_split("image_folder", root, "test")}


class Copyist:
    """Generates by copying the real drawing of that caption, or always the same one."""

    resolution, data, steps = 32, DataSettings(augment="none"), 1

    def __init__(self, splits, always: str | None = None) -> None:
        self._files = {e.captions[0]: e.image for split in splits.values() for e in split.examples}
        self._always = always

    def generate(self, captions: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        pictures = [np.asarray(Image.open(self._files[self._always or caption])) for caption in captions]
        levels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        return to_levels(levels.float() / 127.5 - 1)


def measure(splits, always: str | None = None):
    return Retrieval(splits, NETWORK, Copyist(splits, always), batch_size=4).measure(limit=100, seed=0)


def test_a_copyist_is_always_right_and_a_wrong_caption_never(drawings) -> None:
    result = measure(drawings)
    assert result.value == 100
    assert result.references == {
        "wrong caption": 0,
        "nearest training caption": 100,
        "real drawings, degraded": 100,
    }
    for space in (NETWORK.name, LAB):
        for split in ("train", "test"):
            assert result.details[split]["generated"][space]["class_at_1"] == 100
            assert result.details[split]["generated"][space]["drawing_of_class"] == 100


def test_a_held_out_tone_cannot_be_had_from_the_nearest_training_drawing(drawings) -> None:
    neighbours = measure(drawings).details["test"]["nearest training caption"][LAB]
    assert neighbours["class_at_1"] == 100
    assert neighbours["drawing_of_class"] == 0
    assert neighbours["drawing_of_class_by_chance"] == pytest.approx(100 / 3)


def test_one_drawing_for_everything_is_right_for_its_class_alone(drawings) -> None:
    result = measure(drawings, always="hand, one handy thing with dark skin")
    train, test = (result.details[name]["generated"][LAB] for name in ("train", "test"))
    assert train["queries"] == 7
    assert train["class_at_1"] == pytest.approx(200 / 7)
    assert train["drawing_of_class_queries"] == 6  # the sea has no tones
    assert test["class_at_1"] == pytest.approx(100 / 3)
    assert test["class_at_1_by_chance"] == pytest.approx(30)


def test_the_numbers_equal_a_count_by_hand() -> None:
    vectors = torch.tensor([[0.0], [1.0], [5.0], [6.0], [7.0], [20.0]])
    gallery = Gallery({"line": vectors}, torch.tensor([0, 1, 0, 1, 2, 2]))
    queries = {"line": torch.tensor([[0.4], [0.4], [20.0]])}
    targets = [Target(0, 2), Target(1, 1), Target(0, 0)]
    found = shares(gallery.look_up(queries, targets)["line"], len(gallery))
    assert found["class_at_1"] == pytest.approx(100 / 3)  # only the first query's nearest drawing is of its class
    assert found["class_at_5"] == 100  # the five nearest leave out one drawing
    assert found["drawing_of_class"] == pytest.approx(100 / 3)  # nearest of class: 0, 1 and 2; sought: 2, 1 and 0


def test_drawings_that_a_caption_fits_are_as_right() -> None:
    vectors = torch.tensor([[0.0], [1.0], [5.0], [6.0], [20.0]])
    gallery = Gallery({"line": vectors}, torch.tensor([0, 0, 0, 1, 1]))
    queries = {"line": torch.tensor([[0.9], [5.0], [6.0]])}
    both, everything = frozenset({0, 1}), frozenset({3, 4})
    targets = [Target(0, 0, both), Target(0, 0, both), Target(1, 3, everything)]
    found = shares(gallery.look_up(queries, targets)["line"], len(gallery))
    assert found["drawing_of_class_queries"] == 2  # in the other class no drawing is wrong
    assert found["drawing_of_class"] == 50
    assert found["drawing_of_class_by_chance"] == pytest.approx(200 / 3)


def test_the_styles_of_a_drawing_share_its_captions(drawings) -> None:
    """A second style of the dark foot is found where the first is sought, and the light foot is still wrong."""
    train = drawings["train"]
    foot = next(example for example in train.examples if example.key == "foot-dark.png")
    other = next(example for example in train.examples if example.key == "sea.png")

    def right(caption: str) -> float:
        flat = replace(other, key="flat.png", captions=(caption, "flat foot"), class_id=foot.class_id)
        styled = {"train": replace(train, examples=(*train.examples, flat)), "test": drawings["test"]}
        measured = Retrieval(styled, NETWORK, Copyist(drawings, "blue sea"), batch_size=4).measure(limit=100, seed=0)
        found = measured.details["train"]["generated"][LAB]
        return found["drawing_of_class"] * found["drawing_of_class_queries"] / 100

    assert right(*foot.captions) == pytest.approx(right("another foot") + 1)


def test_degrading_keeps_flat_areas_and_blurs_edges() -> None:
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    image[..., 32:] = 200
    blurred = degrade(image)
    assert blurred[0, 0, 5, 5] == 0
    assert blurred[0, 0, 5, 60] == 200
    assert 0 < blurred[0, 0, 5, 31] < 200


def test_a_wrong_target_is_of_another_class() -> None:
    targets = [Target(class_id, place) for place, class_id in enumerate([0, 0, 0, 1, 0])]
    for asked in (targets, targets[:3]):
        wrong = wrong_targets(asked, targets)
        assert all(one.class_id != other.class_id for one, other in zip(asked, wrong, strict=True))


def test_one_class_alone_is_refused(drawings) -> None:
    train = drawings["train"]
    hands = type(train)("train", train.root, tuple(e for e in train.examples if e.key.startswith("hand")))
    with pytest.raises(DataError, match="two classes"):
        measure({"train": hands})
    with pytest.raises(DataError, match="two classes in each split, and 'test' has 1"):
        measure({"train": train, "test": replace(hands, name="test")})
