import json

import pytest

from dmgan_runtime.errors import DataError
from dmgan_train.data import check_files, detect_source
from dmgan_train.data.coco import load_coco
from tests.dmgan_train.data.drawing import write_coco, write_picture


def annotation_file(root):
    return root / "annotations" / "captions_val2014.json"


def test_test_is_val2014_and_each_photo_its_own_class(tmp_path):
    split = load_coco(write_coco(tmp_path), "test", captions_per_image=2)
    assert [example.class_id for example in split.examples] == [-1, -2, -3]  # none that a training photo has
    assert split.examples[1].captions == ("photo 1 seen 0 times", "photo 1 seen 1 times")
    assert split.examples[1].key == "COCO_val2014_1"
    assert all(example.image.is_file() and example.box is None for example in split.examples)


def test_photos_may_lie_beside_the_annotations(tmp_path):
    write_coco(tmp_path)
    (tmp_path / "images" / "val2014").rename(tmp_path / "val2014")
    assert all(example.image.is_file() for example in load_coco(tmp_path, "test").examples)


def test_photos_without_a_caption_are_left_out_and_named(tmp_path):
    path = annotation_file(write_coco(tmp_path))
    content = json.loads(path.read_text())
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 11]
    path.write_text(json.dumps(content))
    split = load_coco(tmp_path, "test")
    assert len(split) == 2
    assert split.left_out == (f"{path}: COCO_val2014_1 has no caption",)


def test_a_missing_annotation_file_shows_the_layout(tmp_path):
    (tmp_path / "annotations_trainval2014.zip").touch()
    with pytest.raises(
        DataError, match=r"has no annotations/captions_train2014\.json; .*images/train2014/.*; unpack .*2014\.zip$"
    ):
        load_coco(write_coco(tmp_path), "train")


@pytest.mark.parametrize("flat_annotations", [True, False])
@pytest.mark.parametrize("place", ["images/{part}", "{part}", "images", "."])
@pytest.mark.parametrize("year", ["2014", "2017"])
def test_both_years_lie_where_people_put_them(tmp_path, year, place, flat_annotations):
    for part, name in (("train", "train"), ("val", "test")):
        write_coco(tmp_path, part + year, pictures=2)
        folder = tmp_path / place.format(part=part + year)
        folder.mkdir(exist_ok=True)
        for path in sorted((tmp_path / "images" / f"{part}{year}").iterdir()):
            path.rename(folder / path.name)
        if flat_annotations:
            file = f"captions_{part}{year}.json"
            (tmp_path / "annotations" / file).rename(tmp_path / file)
        split = load_coco(tmp_path, name)
        assert detect_source(tmp_path) == "coco"
        assert [example.image.parent.resolve() for example in split.examples] == [folder.resolve()] * 2
        check_files(split, limit=0)


KARPATHY = {
    "images": [
        {"filepath": "val2014", "filename": f"COCO_val2014_{n:012}.jpg", "split": split, "cocoid": n, "sentids": [1],
         "sentences": [{"raw": f"photo {n}.", "tokens": ["photo", str(n)], "imgid": 0}, {"raw": "A photo"}]}
        for n, split in enumerate(("train", "restval", "val", "test"))
    ],
    "dataset": "coco",
}  # fmt: skip


@pytest.mark.parametrize(
    "picture", ["images/val2014/COCO_val2014_{}", "val2014/COCO_val2014_{}", "images/COCO_val2014_{}", "train2017/{}"]
)
def test_karpathys_splits_of_pictures_of_either_year(tmp_path, picture):
    (tmp_path / "dataset_coco.json").write_text(json.dumps(KARPATHY))
    for n in range(4):
        write_picture(tmp_path / f"{picture.format(f'{n:012}')}.jpg")
    assert detect_source(tmp_path) == "coco"
    for name, numbers in (("train", [0, 1]), ("test", [2, 3])):
        split = load_coco(tmp_path, name)
        assert [example.key for example in split.examples] == [f"COCO_val2014_{n:012}" for n in numbers]
        assert split.examples[0].captions == (f"photo {numbers[0]}.", "A photo")
        check_files(split, limit=0)


def test_karpathys_pictures_of_flickr_have_no_folder_of_their_own(tmp_path):
    images = [{key: value for key, value in one.items() if key != "filepath"} for one in KARPATHY["images"]]
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": images}))
    for image in images:
        write_picture(tmp_path / "images" / image["filename"])
    split = load_coco(tmp_path, "train")
    assert all(example.image.parent == tmp_path / "images" for example in split.examples)
    check_files(split, limit=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not in COCO's caption format"),
        ("[" * 100_000, "not in COCO's caption format"),
        ('{"info": ' + "[" * 100_000, "not in COCO's caption format"),
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
