import json
import logging

import pytest

from dmgan_runtime.errors import DataError
from dmgan_train.data.coco import load_coco
from tests.dmgan_train.data.drawing import write_coco


def annotation_file(root):
    return root / "annotations" / "captions_val2014.json"


def test_test_is_val2014_and_each_photo_its_own_class(tmp_path):
    split = load_coco(write_coco(tmp_path), "test", captions_per_image=2)
    assert [example.class_id for example in split.examples] == [0, 1, 2]
    assert split.examples[1].captions == ("photo 1 seen 0 times", "photo 1 seen 1 times")
    assert split.examples[1].key == "COCO_val2014_1"
    assert all(example.image.is_file() and example.box is None for example in split.examples)


def test_photos_may_lie_beside_the_annotations(tmp_path):
    write_coco(tmp_path)
    (tmp_path / "images" / "val2014").rename(tmp_path / "val2014")
    assert all(example.image.is_file() for example in load_coco(tmp_path, "test").examples)


def test_photos_without_a_caption_are_left_out_and_told_of(tmp_path, caplog):
    path = annotation_file(write_coco(tmp_path))
    content = json.loads(path.read_text())
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 11]
    path.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        assert len(load_coco(tmp_path, "test")) == 2
    assert "1 pictures have no caption" in caplog.text


def test_a_missing_annotation_file_shows_the_layout(tmp_path):
    with pytest.raises(DataError, match=r"captions_train2014.json: cannot be read .*images/train2014/"):
        load_coco(write_coco(tmp_path), "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not in COCO's caption format"),
        ('{"images": []}', "missing required field `annotations`"),
        ('{"images": [{"id": "one", "file_name": ""}], "annotations": []}', r"Expected `int`.*images\[0\]\.id"),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}', "no picture has a caption"),
    ],
)
def test_wrong_json_is_an_error(tmp_path, content, message):
    path = annotation_file(write_coco(tmp_path))
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_coco(tmp_path, "test")


def test_a_file_name_cannot_lead_out_of_the_folder(tmp_path):
    path = annotation_file(write_coco(tmp_path, pictures=1))
    path.write_text(path.read_text().replace("COCO_val2014_0.jpg", "../../../etc/passwd"))
    assert load_coco(tmp_path, "test").examples[0].image == tmp_path / "images" / "val2014" / "passwd"
