"""Every layout that docs/data.md shows is made as it is shown, and read."""

import re
from pathlib import Path

import pytest

from dmgan_train.data import check_files, detect_source, load_split
from dmgan_train.data.files import PICTURE_SUFFIXES
from tests.dmgan_train.data.drawing import write_picture

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = {
    title: blocks
    for title, _, text in (section.partition("\n") for section in re.split(r"^#{2,3} ", PAGE, flags=re.MULTILINE)[1:])
    if (blocks := BLOCK.findall(text))
}


def test_every_layout_is_shown() -> None:
    assert len(EXAMPLES) == 8


@pytest.mark.parametrize("title", EXAMPLES)
def test_a_layout_is_read_as_it_is_shown(title, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (_, _, listing), *others = EXAMPLES[title]
    files = [tmp_path / name for name in listing.split()]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
    pictures = {write_picture(path) for path in files if path.suffix in PICTURE_SUFFIXES}
    for language, name, content in others:
        if name:
            (tmp_path / name).write_text(content)
        else:
            assert language == "python"
            exec(content, {})
    assert all(path.is_file() for path in files)
    seen = []
    for name in ("train", "test"):
        split = load_split(detect_source(tmp_path), tmp_path, name)
        check_files(split, limit=0)
        seen += [example.image for example in split.examples]
    assert sorted(seen) == sorted(pictures)
