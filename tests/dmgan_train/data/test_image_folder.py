import pytest

from dmgan_runtime.errors import DataError
from dmgan_train.data.image_folder import load_image_folder
from tests.dmgan_train.data.drawing import write_metadata


def test_captions_come_by_any_of_their_names(tmp_path):
    lines = [
        {"file_name": "a.png", "captions": ["one", " ", "two "], "extra": {"kept": "out"}},
        {"file_name": "b.png", "caption": "three"},
        "",
        {"file_name": "c.png", "text": "four"},
    ]
    split = load_image_folder(write_metadata(tmp_path, lines), "train")
    assert [example.captions for example in split.examples] == [("one", "two"), ("three",), ("four",)]
    assert [example.image for example in split.examples] == [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    assert load_image_folder(tmp_path, "train", captions_per_image=1).examples[0].captions == ("one",)


def test_one_class_is_one_number_in_both_splits_and_none_is_a_class_of_its_own(tmp_path):
    lines = [
        {"file_name": "a.png", "text": "x", "class": "cat", "split": "train"},
        {"file_name": "b.png", "text": "x", "split": "train"},
        {"file_name": "c.png", "text": "x", "split": "train"},
        {"file_name": "d.png", "text": "x", "class": 7, "split": "train"},
        {"file_name": "e.png", "text": "x", "class": 7, "split": "test"},
        {"file_name": "f.png", "text": "x", "class": "cat", "split": "validation"},
    ]
    root = write_metadata(tmp_path, lines)
    cat, b, c, seven = (example.class_id for example in load_image_folder(root, "train").examples)
    assert len({cat, b, c, seven}) == 4
    assert [example.class_id for example in load_image_folder(root, "test").examples] == [seven, cat]


def test_a_folder_tells_the_split_where_the_line_does_not(tmp_path):
    lines = [{"file_name": f"{folder}a.png", "text": "x"} for folder in ("", "train/", "test/", "validation/", "./")]
    root = write_metadata(tmp_path, lines)
    assert [example.key for example in load_image_folder(root, "test").examples] == ["test/a.png", "validation/a.png"]
    assert len(load_image_folder(root, "train")) == 3


def test_each_split_may_have_its_own_metadata(tmp_path):
    write_metadata(tmp_path / "train", [{"file_name": "a.png", "text": "x", "class": "cat"}])
    write_metadata(tmp_path / "test", [{"file_name": "a.png", "text": "y", "class": "dog", "split": "train"}])
    (example,) = load_image_folder(tmp_path, "test").examples
    assert example.image == tmp_path / "test" / "a.png"
    assert example.key == "test/a.png"
    assert example.class_id == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 2: "),
        ("[]", "line 2: Expected `object`"),
        ({"text": "x"}, "line 2: .*missing required field `file_name`"),
        ({"file_name": "a.png"}, "line 2: a.png has no caption"),
        ({"file_name": "a.png", "captions": "one"}, r"line 2: .*\$\.captions"),
        ({"file_name": "a.png", "captions": [" ", "..."]}, "line 2: a.png has no caption"),
        ({"file_name": "a.png", "text": "x", "class": 1.5}, r"line 2: .*\$\.class"),
        ({"file_name": "a.png", "text": "x", "split": "dev"}, "line 2: the split is 'dev'; use one of train, test"),
        ({"file_name": "../a.png", "text": "x"}, "line 2: .*name a file inside"),
        ({"file_name": "/etc/a.png", "text": "x"}, "line 2: .*name a file inside"),
        ({"file_name": "", "text": "x"}, "line 2: .*name a file inside"),
        ({"file_name": ".", "text": "x"}, "line 2: .*name a file inside"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path, line, message):
    root = write_metadata(tmp_path, [{"file_name": "good.png", "text": "x"}, line])
    with pytest.raises(DataError, match=message):
        load_image_folder(root, "train")


def test_an_empty_split_says_how_to_fill_it(tmp_path):
    root = write_metadata(tmp_path, [{"file_name": "a.png", "text": "x"}])
    with pytest.raises(DataError, match=r'add "split": "test" to lines of metadata\.jsonl'):
        load_image_folder(root, "test")


def test_a_folder_without_metadata_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"has no metadata\.jsonl"):
        load_image_folder(tmp_path, "train")
