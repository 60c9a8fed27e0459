import logging

import pytest

from dmgan_runtime.errors import DataError
from dmgan_train.data import BrokenFiles, check_files
from tests.dmgan_train.data.drawing import noise_split


def test_the_limit_is_one_percent_and_at_least_ten(tmp_path):
    split = noise_split(tmp_path, 2)
    assert BrokenFiles(split).limit == 10
    many = type(split)("train", tmp_path, split.examples * 1000)
    assert BrokenFiles(many).limit == 20


def test_each_file_is_logged_and_counted_once(tmp_path, caplog):
    broken = BrokenFiles(noise_split(tmp_path, 2), limit=2)
    with caplog.at_level(logging.WARNING):
        broken.add(["a.png: cut", "b.png: gone"])
        broken.add(["a.png: cut"])
    assert broken.found == ("a.png: cut", "b.png: gone")
    assert len(caplog.records) == 2


def test_over_the_limit_names_the_first_ten(tmp_path, caplog):
    broken = BrokenFiles(noise_split(tmp_path, 20), limit=11)
    with pytest.raises(
        DataError, match=r"(?s)12 of the .*\(20 pictures\).*at most 11 may be.*0\.png.*9\.png: gone\n  and 2 more$"
    ):
        broken.add(f"{number}.png: gone" for number in range(12))
    assert not caplog.records  # the error names them


def test_missing_files_are_found_without_opening_any(tmp_path):
    split = noise_split(tmp_path, 5)
    split.examples[3].image.write_bytes(b"not a picture, but there")
    check_files(split)
    split.examples[1].image.unlink()
    check_files(split)
    with pytest.raises(
        DataError, match=r"(?s)1 of the .*\(5 pictures\).*at most 0 may be.*1\.png: there is no such file"
    ):
        check_files(split, limit=0)
    split.examples[4].image.write_bytes(b"")
    assert check_files(split) == {"1", "4"}
    with pytest.raises(DataError, match=r"(?s)2 of the .*1\.png: there is no such file.*4\.png: is empty \(0 bytes\)"):
        check_files(split, limit=1)


def test_all_files_missing_is_an_error_however_few(tmp_path):
    split = noise_split(tmp_path, 2)
    for example in split.examples:
        example.image.unlink()
    with pytest.raises(DataError, match="none of the 2 pictures of the split 'train' can be read:"):
        check_files(split)
