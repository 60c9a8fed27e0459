import pytest

from dmgan_runtime.errors import DataError
from dmgan_train.data import detect_source, load_split, unread_layouts
from tests.dmgan_train.data.drawing import write_coco, write_cub, write_metadata, write_picture


def test_the_layout_tells_the_source(tmp_path):
    assert detect_source(write_cub(tmp_path / "birds")) == "cub"
    assert detect_source(write_coco(tmp_path / "photos")) == "coco"
    assert detect_source(write_metadata(tmp_path / "folder", [])) == "image_folder"
    assert detect_source(write_metadata(tmp_path / "splits" / "train", []).parent) == "image_folder"


def test_an_unknown_layout_lists_what_was_looked_for(tmp_path):
    with pytest.raises(
        DataError, match=r"(?s)known.*cub: CUB_200_2011/images.txt.*coco: .*image_folder: metadata.jsonl"
    ):
        detect_source(tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        detect_source(tmp_path / "nowhere")


def test_a_near_miss_is_named_with_its_remedy(tmp_path):
    write_picture(tmp_path / "a.png")
    with pytest.raises(
        DataError,
        match=r"(?s)none of the layouts.*has pictures, but neither captions .*such as in .*a\.txt\. Looked for:",
    ):
        detect_source(tmp_path)
    (tmp_path / "captions.csv").write_text("file_name,text\na.png,x\n")
    with pytest.raises(
        DataError, match=r"(?s)none of the layouts.*captions\.csv is not read.* metadata\.csv if .*\. Looked"
    ):
        detect_source(tmp_path)


def test_what_another_source_would_read_is_told(tmp_path):
    root = write_metadata(write_coco(write_cub(tmp_path)), [])
    assert unread_layouts(root, "synthetic") == {
        "coco": root / "annotations" / "captions_val2014.json",
        "image_folder": root / "metadata.jsonl",
    }
    assert list(unread_layouts(root, "emoji")) == ["cub", "coco"]
    assert unread_layouts(write_coco(tmp_path / "one"), "coco") == {}
    (root / "metadata.csv").write_text("file_name,text\n")  # two formats, an error only of the source that reads them
    assert list(unread_layouts(root, "cub")) == ["coco", "image_folder"]


def test_sources_share_their_layouts(tmp_path):
    assert len(load_split("synthetic", write_cub(tmp_path / "birds"), "train", captions_per_image=1)) == 3
    folder = write_metadata(tmp_path / "folder", [{"file_name": "a.png", "text": "a cat"}])
    assert load_split("emoji", folder, "train") == load_split("image_folder", folder, "train")
    assert list(load_split("emoji", folder, "train").captions()) == ["a cat"]


def test_an_unknown_source_names_the_nearest(tmp_path):
    with pytest.raises(DataError, match="did you mean 'coco'\\? there are cub, coco, "):
        load_split("cocoa", tmp_path, "train")
    with pytest.raises(DataError, match="is no source of data; there are cub, coco, "):
        load_split("photographs", tmp_path, "train")


def test_a_missing_folder_is_told_apart_from_a_wrong_one(tmp_path):
    with pytest.raises(DataError, match="there is no such folder; give the folder that holds annotations/"):
        load_split("coco", tmp_path / "nowhere", "train")
