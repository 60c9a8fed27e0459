import codecs
import csv
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from dmgan_runtime.errors import DataError
from dmgan_train.data import check_files
from dmgan_train.data.image_folder import load_image_folder
from tests.dmgan_train.data.drawing import write_metadata, write_picture


def captions_of(root: Path, split: str = "train") -> dict[str, tuple[str, ...]]:
    return {example.key: example.captions for example in load_image_folder(root, split).examples}


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("fields", "captions"),
    [
        ({"captions": ["one", "two "], "extra": {"kept": "out"}}, ("one", "two")),
        ({"captions": "one"}, ("one",)),
        ({"caption": "one"}, ("one",)),
        ({"text": "one"}, ("one",)),
        ({"text": ["one", "two"]}, ("one", "two")),
        ({"caption": ["one", None], "captions": None, "text": None, "class": None, "split": None}, ("one",)),
        ({"caption_0": "zero", "caption_10": "ten", "caption_2": "two", "caption_1": None}, ("zero", "two", "ten")),
        ({"text_0": "zero", "caption1": "one"}, ("zero", "one")),
        ({"captions": ["one"], "caption": "two", "text": "three"}, ("one", "two", "three")),
        ({"text": "fu\u0308r"}, ("für",)),
    ],
)
def test_captions_come_by_any_of_their_names(tmp_path, fields, captions):
    root = write_metadata(tmp_path, [{"file_name": "a.png", **fields}])
    assert captions_of(root) == {"a.png": captions}
    assert load_image_folder(root, "train", captions_per_image=1).examples[0].captions == captions[:1]
    assert load_image_folder(root, "train").left_out == ()


ROWS = [
    {"file_name": "train/a.png", "text": "a red bird", "class": "3"},
    {"file_name": "test\\b.png", "text": 'it says "hi", and\nflies off', "class": ""},
]


def as_csv(delimiter: str = ",", newline: str = "\n") -> str:
    stream = io.StringIO(newline="")
    table = csv.DictWriter(stream, list(ROWS[0]), delimiter=delimiter, lineterminator=newline)
    table.writeheader()
    table.writerows(ROWS)
    return stream.getvalue()


def as_lines(newline: str = "\n") -> str:
    return newline.join(json.dumps(row) for row in ROWS) + newline * 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", as_lines()),
        ("metadata.jsonl", as_lines("\r\n")),
        ("metadata.jsonl", codecs.BOM_UTF8 + as_lines().encode()),
        ("metadata.jsonl", as_lines().encode("utf-16")),
        ("metadata.csv", as_csv()),
        ("metadata.csv", as_csv(newline="\r\n")),
        ("metadata.csv", codecs.BOM_UTF8 + as_csv().encode()),
        ("metadata.csv", as_csv(";")),
        ("metadata.csv", as_csv("\t").encode("utf-16")),
        ("metadata.csv", "sep=;\r\n" + as_csv(";", "\r\n")),
        ("metadata.csv", codecs.BOM_UTF8 + ("sep=|\n" + as_csv("|")).encode()),
    ],
)
def test_metadata_is_read_as_systems_and_programs_write_it(tmp_path, name, content):
    write(tmp_path / name, content)
    assert captions_of(tmp_path) == {"train/a.png": ("a red bird",)}
    assert captions_of(tmp_path, "test") == {"test/b.png": (ROWS[1]["text"],)}


def test_parquet_is_read_with_its_lists_and_nulls(tmp_path):
    table = pyarrow.table(
        {
            "file_name": ["a.png", "b.png", "b.png"],
            "captions": [["one", "two"], None, ["four"]],
            "text": [None, "three", None],
            "class": [3.0, None, None],
            "split": ["train", "dev", "dev"],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "metadata.parquet")
    assert captions_of(tmp_path) == {"a.png": ("one", "two")}
    assert captions_of(tmp_path, "test") == {"b.png": ("three", "four")}


def test_without_pyarrow_a_message_names_it(tmp_path, monkeypatch):
    write(tmp_path / "metadata.parquet", b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r'metadata\.parquet: .*pyarrow.*pip install "dmgan\[parquet\]"'):
        load_image_folder(tmp_path, "train")


def test_a_cell_may_be_a_list_and_empty_cells_are_nothing(tmp_path):
    rows = 'file_name,captions,caption_0,class\na.png,"[\'one\', ""it\'s two""]",,3.0\nb.png,[not a list],x,\n,,,\n'
    write(tmp_path / "metadata.csv", rows)
    assert captions_of(tmp_path) == {"a.png": ("one", "it's two"), "b.png": ("[not a list]", "x")}


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "test"])
def test_what_is_not_for_training_is_held_out_whatever_it_is_called(tmp_path, name):
    root = write_metadata(tmp_path / "a", [{"file_name": "x.png", "text": "x", "split": name.upper()}])
    assert captions_of(root, "test") == {"x.png": ("x",)}
    root = write_metadata(tmp_path / "b", [{"file_name": f"{name}/x.png", "text": "x"}])
    assert captions_of(root, "test") == {f"{name}/x.png": ("x",)}
    write(tmp_path / "c" / name / "metadata.csv", "file_name,text\nx.png,x\n")
    write_metadata(tmp_path / "c" / "train", [{"file_name": "x.png", "text": "y"}])
    assert captions_of(tmp_path / "c", "test") == {f"{name}/x.png": ("x",)}
    assert captions_of(tmp_path / "c") == {"train/x.png": ("y",)}


def test_captions_may_lie_beside_their_pictures(tmp_path):
    for name in ("10_cat/a.jpg", "train/b.PNG", "val/c.webp"):
        write_picture(tmp_path / name)
    write(tmp_path / "10_cat" / "a.txt", codecs.BOM_UTF8 + b"a cat\r\n\r\nblack, sitting\r\n")
    write(tmp_path / "train" / "b.caption", "a dog")
    write(tmp_path / "val" / "c.txt", "a bird")
    write(tmp_path / "readme.txt", "not a caption")
    assert captions_of(tmp_path) == {"10_cat/a.jpg": ("a cat", "black, sitting"), "train/b.PNG": ("a dog",)}
    assert captions_of(tmp_path, "test") == {"val/c.webp": ("a bird",)}
    write_picture(tmp_path / "d.png")
    write(write_picture(tmp_path / "e.png").with_suffix(".txt"), "für Elise".encode("cp1252"))
    without, unreadable = load_image_folder(tmp_path, "train").left_out
    assert without == f"{tmp_path / 'd.png'}: has no captions; write them into d.txt beside it"
    assert unreadable.startswith(f"{tmp_path / 'e.txt'}: is not in UTF-8")


def test_several_lines_for_one_picture_are_one_example(tmp_path):
    lines = [
        {"file_name": "a.png", "text": "one"},
        {"file_name": "b.png", "text": "two"},
        {"file_name": "./a.png", "text": "three"},
    ]
    root = write_metadata(tmp_path, lines)
    assert captions_of(root) == {"a.png": ("one", "three"), "b.png": ("two",)}
    assert [example.class_id for example in load_image_folder(root, "train").examples] == [0, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "test"}, r"line 2: the split of a\.png is 'test' here and 'train' in .*line 1"),
        ({"class": "dog"}, r"line 2: the class of a\.png is 'dog' here and None in .*line 1"),
    ],
)
def test_lines_of_one_picture_that_contradict_each_other_are_an_error(tmp_path, fields, message):
    root = write_metadata(
        tmp_path, [{"file_name": "a.png", "text": "x"}, {"file_name": "a.png", "text": "y", **fields}]
    )
    with pytest.raises(DataError, match=message):
        load_image_folder(root, "train")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "an empty caption"),
        (" \t", "an empty caption"),
        ("...!", r"the caption '\.\.\.!' has no words"),
        ("🐦❤️", "the caption '.*' has no words"),
        ("красная птица", "the caption 'красная птица' has no word that can be read: words are ASCII letters"),
        ("赤い鳥", "words are ASCII"),
        ("a bird " * 1_000_000, r"a caption has 7,000,000 characters; at most 10,000 are read"),
    ],
)
def test_a_caption_that_cannot_be_used_is_named_and_left_out(tmp_path, text, reason):
    lines = [{"file_name": "a.png", "captions": ["good", text]}, {"file_name": "b.png", "text": text}]
    split = load_image_folder(write_metadata(tmp_path, lines), "train")
    assert [example.captions for example in split.examples] == [("good",)]
    for number, fault in enumerate(split.left_out, start=1):
        assert fault.startswith(f"{tmp_path / 'metadata.jsonl'}, line {number}: ")
        assert len(fault) < 300
    write_picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=rf"(?s)2 of the .*at most 1 may be.*{reason}"):
        check_files(split, limit=1)


def test_a_picture_without_a_caption_is_named_and_left_out(tmp_path):
    split = load_image_folder(
        write_metadata(tmp_path, [{"file_name": "a.png"}, {"file_name": "b.png", "text": "x"}]), "train"
    )
    assert [example.key for example in split.examples] == ["b.png"]
    assert split.left_out == (f"{tmp_path / 'metadata.jsonl'}, line 1: a.png has no caption",)
    with pytest.raises(DataError, match=r"none of the 1 pictures of the split 'train' can be used.*\n.*has no caption"):
        load_image_folder(write_metadata(tmp_path, [{"file_name": "a.png", "text": None}]), "train")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "file_name;beschreibung\n" + "".join(f"{n}.png;a bird\n" for n in range(30))),
        ("metadata.jsonl", '\n{"file_name": "a.png", "beschreibung": "a bird"}\n' * 30),
    ],
)
def test_captions_by_another_name_are_one_line(tmp_path, name, content):
    write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        load_image_folder(tmp_path, "train")
    assert str(caught.value) == (
        f"{tmp_path / name}, line 2: has no captions, caption or text (it has file_name, beschreibung);"
        " one of them describes the picture"
    )


def test_pictures_without_any_captions_are_told_where_these_would_be(tmp_path):
    write_picture(tmp_path / "train" / "a.png")
    with pytest.raises(
        DataError, match=r"neither captions in metadata\.jsonl .* beside them, such as in .*/train/a\.txt$"
    ):
        load_image_folder(tmp_path, "train")
    table = write(tmp_path / "captions.CSV", "file_name,text\ntrain/a.png,x\n")
    with pytest.raises(
        DataError, match=r"captions\.CSV is not read, because of its name; rename it to metadata\.csv if"
    ):
        load_image_folder(tmp_path, "train")
    table.rename(tmp_path / "metadata.csv")
    assert captions_of(tmp_path) == {"train/a.png": ("x",)}


def test_captions_beside_may_have_suffixes_in_capitals(tmp_path):
    for name, captions in (("a", "a.TXT"), ("b", "b.Caption"), ("c", "C.txt")):
        write_picture(tmp_path / f"{name}.png")
        write(tmp_path / captions, f"bird {name}")
    assert captions_of(tmp_path) == {"a.png": ("bird a",), "b.png": ("bird b",)}


def test_one_class_is_one_number_in_both_splits_and_none_is_a_class_of_its_own(tmp_path):
    lines = [
        {"file_name": "a.png", "text": "x", "class": "cat", "split": "train"},
        {"file_name": "b.png", "text": "x", "split": "train"},
        {"file_name": "c.png", "text": "x", "split": "train"},
        {"file_name": "d.png", "text": "x", "class": 7, "split": "train"},
        {"file_name": "e.png", "text": "x", "class": 7.0, "split": "test"},
        {"file_name": "f.png", "text": "x", "class": "cat", "split": "validation"},
        {"file_name": "g.png", "text": "x", "class": "7.0", "split": "test"},
    ]
    root = write_metadata(tmp_path, lines)
    cat, b, c, seven = (example.class_id for example in load_image_folder(root, "train").examples)
    assert len({cat, b, c, seven}) == 4
    assert [example.class_id for example in load_image_folder(root, "test").examples] == [seven, cat, seven]


def test_a_folder_tells_the_split_where_the_line_does_not(tmp_path):
    names = ("a.png", "train/a.png", "test/a.png", "validation/a.png", "./b.png")
    root = write_metadata(tmp_path, [{"file_name": name, "text": "x"} for name in names])
    assert [example.key for example in load_image_folder(root, "test").examples] == ["test/a.png", "validation/a.png"]
    assert len(load_image_folder(root, "train")) == 3


def test_a_splits_folder_may_be_in_capitals_or_a_link(tmp_path):
    write_metadata(tmp_path / "Train", [{"file_name": "a.png", "text": "x"}])
    write_metadata(tmp_path / "elsewhere", [{"file_name": "b.png", "text": "y"}])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Train").symlink_to(tmp_path / "Train")
    (tmp_path / "data" / "VAL").symlink_to(tmp_path / "elsewhere")
    keys = [
        [example.key for example in load_image_folder(tmp_path / "data", split).examples] for split in ("train", "test")
    ]
    assert keys == [["Train/a.png"], ["VAL/b.png"]]


def test_pictures_in_folders_that_are_linked_are_found_once(tmp_path):
    write_picture(tmp_path / "far" / "a.png")
    write(tmp_path / "far" / "a.txt", "bird")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "round").symlink_to(tmp_path / "data")
    assert captions_of(tmp_path / "data") == {"train/a.png": ("bird",)}


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
        ("[" * 100_000, "line 2: "),
        ('{"file_name": "a.png", "extra": ' + "[" * 100_000, "line 2: "),
        ("[]", "line 2: Expected `object`"),
        ({"text": "x"}, r"line 2: has no file_name \(it has text\)"),
        ({"file_name": None, "text": "x"}, "line 2: file_name is 'None'"),
        ({"file_name": "a.png", "captions": {"en": "x"}}, "line 2: captions is .*; give a text, or a list"),
        ({"file_name": "a.png", "captions": [["x"]]}, "line 2: captions is .*; give a text, or a list"),
        ({"file_name": "a.png", "text": "x", "class": 1.5}, "line 2: class is '1.5'; give a name or a whole number"),
        ({"file_name": "a.png", "text": "x", "split": "eval"}, "line 2: the split is 'eval'; use one of train, "),
        ({"file_name": "../a.png", "text": "x"}, "line 2: .*name a file inside"),
        ({"file_name": "..\\a.png", "text": "x"}, "line 2: .*name a file inside"),
        ({"file_name": "/etc/a.png", "text": "x"}, "line 2: .*name a file inside"),
        ({"file_name": "C:\\a.png", "text": "x"}, "line 2: .*name a file inside"),
        ({"file_name": "", "text": "x"}, "line 2: .*name a file inside"),
        ({"file_name": ".", "text": "x"}, "line 2: .*name a file inside"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path, line, message):
    root = write_metadata(tmp_path, [{"file_name": "good.png", "text": "x"}, line])
    with pytest.raises(DataError, match=message) as caught:
        load_image_folder(root, "train")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", "image,text\na.png,x\n", r"line 2: has no file_name \(it has image, text\)"),
        (
            "metadata.csv",
            "file_name,text\na.png,a bird, red\n",
            "line 2: has 3 cells, and the header has 2; put quotes",
        ),
        ("metadata.csv", "sep=;\nfile_name;text\na.png;a bird; red\n", "line 3: has 3 cells"),
        ("metadata.csv", f"file_name,text\na.png,{'x' * 200_000}\n", "line 2: field larger"),
        ("metadata.csv", "file_name,text\na.png,für\n".encode("cp1252"), "is not in UTF-8 .*; save it as UTF-8"),
        ("metadata.csv", b"version https://git-lfs.github.com/spec/v1\noid x", "Git LFS pointer.*git lfs pull"),
        ("metadata.parquet", b"version https://git-lfs.github.com/spec/v1\noid x", "Git LFS pointer.*git lfs pull"),
        ("metadata.parquet", b"PAR1 and rubbish", "cannot be read as Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    write(tmp_path / name, content)
    with pytest.raises(DataError, match=rf"{name}.*{message}"):
        load_image_folder(tmp_path, "train")


def test_two_formats_in_one_folder_are_an_error(tmp_path):
    write_metadata(tmp_path, [])
    write(tmp_path / "metadata.csv", "file_name,text\n")
    with pytest.raises(DataError, match=r"has metadata\.jsonl and metadata\.csv; keep one"):
        load_image_folder(tmp_path, "train")


def test_a_name_that_no_disk_can_hold_is_a_missing_picture(tmp_path):
    write_picture(tmp_path / "a.png")
    lines = [{"file_name": "a.png", "text": "x"}, {"file_name": "b" * 5000 + ".png", "text": "x"}]
    split = load_image_folder(write_metadata(tmp_path, lines), "train")
    with pytest.raises(DataError, match=r"1 of the .*at most 0 .*\n.*bbb \.\.\. b+\.png: cannot be read") as caught:
        check_files(split, limit=0)
    assert len(str(caught.value)) < 1000


def test_an_empty_split_says_how_to_fill_it(tmp_path):
    root = write_metadata(tmp_path, [{"file_name": "a.png", "text": "x"}])
    with pytest.raises(DataError, match=r'write the split "test" in lines of metadata\.jsonl'):
        load_image_folder(root, "test")


def test_a_folder_without_metadata_is_an_error(tmp_path):
    with pytest.raises(
        DataError, match=r"no picture is in the split 'train'; .*\.txt beside it; or write metadata\.jsonl"
    ):
        load_image_folder(tmp_path, "train")
