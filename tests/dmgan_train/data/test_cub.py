import pickle
import re
import shutil

import numpy as np
import pytest

from dmgan_runtime.errors import DataError
from dmgan_train.data import check_files, detect_source, load_split
from dmgan_train.data.cub import load_cub
from tests.dmgan_train.data.drawing import BIRDS, write_cub, write_picture


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
        ("train/filenames.pickle", pickle.dumps(["a", "../b"]), "'../b' is no name inside"),
        ("train/class_info.pickle", pickle.dumps([1]), "1 classes for the 3 names"),
        ("train/class_info.pickle", pickle.dumps(["a", "b", "c"]), "no list of class numbers"),
        (
            "train/class_info.pickle",
            b"\x80\x02" + b"]q\x00" + b"](h\x00h\x00eq\x00" * 40 + b".",
            "no list of class numbers",
        ),
        ("train/filenames.pickle", b"\x80\x02" + b"]q\x00" + b"](h\x00h\x00eq\x00" * 40 + b".", "no list of names"),
        ("train/class_info.pickle", pickle.dumps([1, 2, 2.5]), "no list of class numbers"),
        ("train/class_info.pickle", pickle.dumps([1, 2, float("nan")]), "no list of class numbers"),
        ("CUB_200_2011/images.txt", None, "laid out as CUB_200_2011/images.txt"),
        ("CUB_200_2011/images.txt", b"1\n", "line 1: '1' has no value"),
        ("CUB_200_2011/bounding_boxes.txt", b"1 5 5 5 5\n", "no box for image 2"),
        ("CUB_200_2011/images.txt", b"1 ../../a.jpg\n", "line 1: '../../a.jpg' is no name of a picture"),
        ("CUB_200_2011/images.txt", b"1 other/a.jpg\n", "none of its 3 names is a picture, such as '001.Albatross/"),
        ("CUB_200_2011/bounding_boxes.txt", b"1 5 5 wide 5\n", "line 1: '5 5 wide 5' is not x, y, width, height"),
        ("CUB_200_2011/bounding_boxes.txt", b"1 5 5 nan 5\n", "line 1: '5 5 nan 5' is not x, y, width, height"),
        ("CUB_200_2011/bounding_boxes.txt", b"1 5 5 1e999 5\n", "is not x, y, width, height"),
    ],
)
def test_a_damaged_file_is_named(root, path, content, message):
    if content is None:
        (root / path).unlink()
    else:
        (root / path).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_cub(root, "train")


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("text/001.Albatross/Albatross_0001_1.txt", None, r"Albatross_0001_1\.txt: cannot be read \(No such file"),
        ("text/001.Albatross/Albatross_0001_1.txt", b"\n ... \n", r"the caption '\.\.\.' has no words"),
        ("text/001.Albatross/Albatross_0001_1.txt", b"\n", r"has no caption"),
        ("CUB_200_2011/images.txt", None, "Albatross_0001_1 is not among the pictures"),
    ],
)
def test_a_bird_that_cannot_be_used_is_named_and_left_out(root, path, content, reason):
    if content is not None:
        (root / path).write_bytes(content)
    elif path.startswith("text"):
        (root / path).unlink()
    else:
        lines = (root / path).read_text().splitlines(keepends=True)
        (root / path).write_text("".join(lines[1:]))
    split = load_cub(root, "train")
    assert [example.key for example in split.examples] == list(BIRDS["train"][1:])
    assert any(re.search(reason, fault) for fault in split.left_out)
    with pytest.raises(DataError, match=rf"(?s)cannot be used.*{reason}"):
        check_files(split, limit=0)


def own_data(root):
    """The published code's layout as one makes it for other pictures: no CUB_200_2011/, no boxes, no classes."""
    write_cub(root)
    (root / "CUB_200_2011" / "images").rename(root / "images")
    shutil.rmtree(root / "CUB_200_2011")
    for split in BIRDS:
        (root / split / "class_info.pickle").unlink()
    return root


@pytest.mark.parametrize("texts", ["text", "text_c10"])
@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png"])
def test_other_pictures_need_no_folder_around_them_and_no_boxes(tmp_path, texts, suffix):
    root = own_data(tmp_path)
    (root / "text").rename(root / texts)
    for path in list((root / "images").rglob("*.jpg")):
        path.rename(path.with_suffix(suffix))
    assert detect_source(root) == "cub"
    split = load_cub(root, "train")
    assert [(example.key, example.box) for example in split.examples] == [(key, None) for key in BIRDS["train"]]
    assert split.examples[0].captions == ("bird 1 is red", "bird 1 is blue", "bird 1 is small")
    assert [example.class_id for example in split.examples] == [0, 1, 2]
    check_files(split, limit=0)


def test_the_published_codes_coco_has_names_without_folders(tmp_path):
    write_picture(tmp_path / "images" / "COCO_train2014_000000000009.jpg")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "COCO_train2014_000000000009.txt").write_bytes(b"\xef\xbb\xbfa photo\r\nanother\r\n")
    (tmp_path / "train").mkdir()
    names = np.array(["COCO_train2014_000000000009"])
    (tmp_path / "train" / "filenames.pickle").write_bytes(pickle.dumps(names))
    (example,) = load_split(detect_source(tmp_path), tmp_path, "train").examples
    assert example.captions == ("a photo", "another")
    assert example.image.is_file()


def test_lists_may_lie_beside_the_pictures(root):
    for path in list((root / "CUB_200_2011").iterdir()):
        path.rename(root / path.name)
    (root / "CUB_200_2011").rmdir()
    assert load_cub(root, "train").examples[1].box == (2.0, 4.0, 20.0, 10.0)


def test_names_and_class_numbers_are_read_as_programs_write_them(root):
    backslashes = [key.replace("/", "\\") for key in BIRDS["train"]]
    (root / "train" / "filenames.pickle").write_bytes(pickle.dumps(tuple(backslashes)))
    (root / "train" / "class_info.pickle").write_bytes(pickle.dumps(np.array([3.0, 3.0, 5.0])))
    split = load_cub(root, "train")
    assert [example.key for example in split.examples] == list(BIRDS["train"])
    assert [example.class_id for example in split.examples] == [3, 3, 5]


@pytest.mark.parametrize(
    ("archive", "missing"),
    [("text.zip", "text"), ("images.zip", "images"), ("train.tar.gz", "train"), ("text/text.zip", "text")],
)
def test_an_archive_that_was_not_unpacked_is_named(tmp_path, archive, missing):
    root = own_data(tmp_path)
    shutil.rmtree(root / missing)
    (root / archive).parent.mkdir(exist_ok=True)
    (root / archive).touch()
    with pytest.raises(DataError, match=rf"unpack .*{re.escape(archive)}$"):
        load_cub(root, "train")


def test_a_folder_of_archives_alone_says_so(tmp_path):
    (tmp_path / "CUB_200_2011.tgz").touch()
    with pytest.raises(DataError, match=r"has none of the layouts that are known; unpack .*CUB_200_2011\.tgz\. Looked"):
        detect_source(tmp_path)
