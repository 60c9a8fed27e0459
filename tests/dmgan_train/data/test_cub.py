import pickle

import pytest

from dmgan_runtime.errors import DataError
from dmgan_train.data.cub import load_cub
from tests.dmgan_train.data.drawing import BIRDS, write_cub


@pytest.fixture
def root(tmp_path):
    return write_cub(tmp_path)


def test_reads_keys_boxes_classes_and_captions(root):
    split = load_cub(root, "train")
    assert [example.key for example in split.examples] == list(BIRDS["train"])
    assert [example.class_id for example in split.examples] == [1, 1, 2]
    assert split.examples[1].box == (2.0, 4.0, 20.0, 10.0)
    assert split.examples[1].captions == ("bird 2 is red", "bird 2 is blue", "bird 2 is small")
    assert all(example.image.is_file() for example in split.examples)
    assert len(load_cub(root, "test")) == 1


def test_takes_the_first_captions_that_have_words(root):
    assert load_cub(root, "train", captions_per_image=2).examples[0].captions == ("bird 1 is red", "bird 1 is blue")


def test_without_class_info_every_image_is_its_own_class(root):
    (root / "train" / "class_info.pickle").unlink()
    assert [example.class_id for example in load_cub(root, "train").examples] == [0, 1, 2]


def test_a_stray_byte_in_a_caption_is_no_trouble(root):
    (root / "text" / f"{BIRDS['test'][0]}.txt").write_bytes(b"a bird \xff with wings\n")
    (caption,) = load_cub(root, "test").examples[0].captions
    assert caption.startswith("a bird")


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("train/filenames.pickle", None, "No such file"),
        ("train/filenames.pickle", pickle.dumps({"a": 1}), "no list of names"),
        ("train/class_info.pickle", pickle.dumps([1]), "1 classes for the 3 names"),
        ("train/class_info.pickle", pickle.dumps(["a", "b", "c"]), "no list of class numbers"),
        ("CUB_200_2011/images.txt", None, "laid out as CUB_200_2011/images.txt"),
        ("CUB_200_2011/images.txt", b"1\n", "line 1: '1' has no value"),
        ("CUB_200_2011/bounding_boxes.txt", b"1 5 5 5 5\n", "no box for image 2"),
        ("CUB_200_2011/bounding_boxes.txt", b"1 5 5 wide 5\n", "is not x, y, width, height"),
        ("text/001.Albatross/Albatross_0001_1.txt", None, "captions of 001.Albatross/Albatross_0001_1 cannot be read"),
        ("text/001.Albatross/Albatross_0001_1.txt", b"\n ... \n", "has no caption"),
    ],
)
def test_a_damaged_file_is_named(root, path, content, message):
    if content is None:
        (root / path).unlink()
    else:
        (root / path).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_cub(root, "train")


def test_names_outside_cubs_own_list_are_an_error(root):
    (root / "test" / "filenames.pickle").write_bytes(pickle.dumps(["009.Gull/Gull_1"]))
    with pytest.raises(DataError, match=r"1 of its 1 names .*009\.Gull/Gull_1"):
        load_cub(root, "test")
