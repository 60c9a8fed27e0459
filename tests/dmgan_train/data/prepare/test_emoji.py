import json
import shutil

import numpy as np
import pytest
from PIL import Image

from dmgan_runtime.errors import DataError
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.data import load_split, read_aliases
from dmgan_train.data.prepare.emoji import STYLES, prepare_emoji
from tests.dmgan_train.data.prepare.packages import SKINS, TONES, YELLOW, write_emoji_packages, write_tarball

PEOPLE = 12


@pytest.fixture(scope="module")
def tarballs(tmp_path_factory):
    return write_emoji_packages(tmp_path_factory.mktemp("packages"), PEOPLE)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tarballs):
    root = tmp_path_factory.mktemp("emoji") / "drawings"
    prepare_emoji(root, tarballs=tarballs, resolution=16)
    return root


@pytest.fixture(scope="module")
def lines(prepared):
    return [json.loads(line) for line in (prepared / "metadata.jsonl").read_text().splitlines()]


def test_counts_what_it_made(tmp_path, tarballs):
    calls = []
    counts = prepare_emoji(
        tmp_path / "emoji", tarballs=tarballs[::-1], resolution=16, progress=lambda *call: calls.append(call)
    )
    assert counts == (4 + 10 * PEOPLE, 2 * PEOPLE, 3 + PEOPLE)
    assert calls == [(done, 3 + PEOPLE) for done in range(1, 4 + PEOPLE)]


def test_country_flags_and_doubles_are_left_out(lines):
    classes = {line["class"] for line in lines}
    assert "chequered flag" in classes
    assert not any("flag:" in name for name in classes)
    assert sum(line["class"] == "copyright" for line in lines) == 1
    assert sum(line["class"] == "red heart" for line in lines) == 2
    assert len({line["file_name"] for line in lines}) == len(lines)


def test_pictures_stand_on_white_and_are_square(prepared, lines):
    for line in lines:
        with Image.open(prepared / line["file_name"]) as image:
            assert (image.mode, image.size) == ("RGB", (16, 16))
            assert image.getpixel((0, 0)) == (255, 255, 255)
    for style in STYLES:
        with Image.open(prepared / "images" / style / "2764.png") as heart:
            assert heart.getpixel((8, 8)) == (255, 0, 0)


def test_three_captions_of_a_picture_name_its_style(lines):
    hearts = {line["file_name"].split("/")[1]: line["captions"] for line in lines if line["class"] == "red heart"}
    shared = set(hearts["3d"]) & set(hearts["flat"])
    assert hearts["3d"][0] == hearts["flat"][0] == "red heart"
    assert set(hearts["flat"]) - shared == {"flat red heart", "red heart, flat style", "a flat drawing of a red heart"}
    assert len(set(hearts["3d"]) - shared) == 3


def test_one_style_is_named_nowhere(tmp_path, tarballs):
    drawings, _, names = tarballs
    counts = prepare_emoji(tmp_path / "emoji", styles=["3d"], tarballs=[drawings, names], resolution=16)
    assert counts == (3 + 5 * PEOPLE, PEOPLE, 3 + PEOPLE)
    assert "3d" not in (tmp_path / "emoji" / "metadata.jsonl").read_text().replace("images/3d/", "")


def test_the_test_split_holds_one_tone_of_each_emoji(lines):
    held_out = [line for line in lines if line["split"] == "test"]
    assert sorted(line["class"] for line in held_out) == sorted(2 * [f"person {number}" for number in range(PEOPLE)])
    tones = {line["captions"][0].partition(", ")[2] for line in held_out}
    assert tones == {
        "light skin tone",
        "medium-light skin tone",
        "medium skin tone",
        "medium-dark skin tone",
        "dark skin tone",
    }
    trained = [line["captions"][0] for line in lines if line["split"] == "train"]
    assert all(any(tone in caption for caption in trained) for tone in tones)
    assert not set(trained) & {line["captions"][0] for line in held_out}


@pytest.mark.parametrize("style", STYLES)
def test_exchanged_tones_are_put_right(prepared, style):
    for number in range(PEOPLE):
        for tone, skin in zip(TONES, SKINS, strict=True):
            with Image.open(prepared / "images" / style / f"1f{number:03x}-{tone.lower()}.png") as image:
                assert np.abs(np.subtract(image.getpixel((8, 8)), skin)).max() <= 2
        with Image.open(prepared / "images" / style / f"1f{number:03x}.png") as image:
            assert np.abs(np.subtract(image.getpixel((8, 8)), YELLOW)).max() <= 2


def test_it_is_read_as_an_image_folder(prepared):
    train, test = (load_split("emoji", prepared, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (4 + 10 * PEOPLE, 2 * PEOPLE)
    assert {example.class_id for example in test.examples} < {example.class_id for example in train.examples}
    assert all(8 <= len(example.captions) <= 13 for example in train.examples)
    assert all(example.image.is_file() for example in (*train.examples, *test.examples))


def test_the_characters_of_what_is_drawn_are_aliases_of_its_names(prepared, lines):
    aliases = read_aliases(prepared)
    assert aliases["\u2764"] == "red heart"
    assert aliases["\xa9"] == "copyright"
    assert aliases["\U0001f000\U0001f3ff"] == "person 0, dark skin tone"
    assert aliases["\U0001f3ff"] == "dark skin tone"
    assert not {"\U0001f999", "\U0001f1f9\U0001f1e9"} & aliases.keys()
    tokenizer = Tokenizer.from_captions((caption for line in lines for caption in line["captions"]), aliases)
    assert tokenizer.aliases == aliases
    assert {line["captions"][0] for line in lines} == set(aliases.values()) - {
        aliases[chr(tone)] for tone in range(0x1F3FB, 0x1F400)
    }


def test_the_licences_come_along(prepared):
    assert "@lobehub/fluent-emoji-3d 1.1.0" in (prepared / "LICENSE").read_text()
    assert "@lobehub/fluent-emoji-flat 1.1.0" in (prepared / "LICENSE").read_text()
    assert (prepared / "licenses" / "lobehub-fluent-emoji-3d" / "README.md").read_text() == "MIT, by A"
    assert (prepared / "licenses" / "lobehub-fluent-emoji-flat" / "README.md").read_text() == "MIT, by A too"
    assert (prepared / "licenses" / "emojibase-data" / "LICENSE").read_text() == "MIT, by B"


def test_the_same_packages_make_the_same_data(tmp_path, tarballs, prepared):
    prepare_emoji(tmp_path / "again", tarballs=tarballs, resolution=16)
    for path in prepared.rglob("*.*"):
        assert (tmp_path / "again" / path.relative_to(prepared)).read_bytes() == path.read_bytes()


def test_an_empty_folder_is_filled_and_a_full_one_left_alone(tmp_path, tarballs):
    root = tmp_path / "emoji"
    root.mkdir()
    prepare_emoji(root, tarballs=tarballs, resolution=16)
    with pytest.raises(DataError, match="is already there; remove it"):
        prepare_emoji(root, tarballs=tarballs)
    assert list(tmp_path.iterdir()) == [root]


def test_a_failure_leaves_nothing_behind(tmp_path, tarballs):
    def fail(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_emoji(tmp_path / "emoji", tarballs=tarballs, resolution=16, progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_one_left_is_cleared_away(tmp_path, tarballs):
    left = tmp_path / "out" / ".emoji.partial" / "work" / "emoji"
    left.mkdir(parents=True)
    (left / "half.png").write_bytes(b"half")
    prepare_emoji(tmp_path / "out" / "emoji", tarballs=tarballs, resolution=16)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["emoji"]


def test_other_packages_are_refused(tmp_path, tarballs):
    other = write_tarball(tmp_path / "other.tgz", {}, name="left-pad")
    with pytest.raises(DataError, match=r"hold emojibase-data and left-pad, so @lobehub/fluent-emoji-3d is missing"):
        prepare_emoji(tmp_path / "emoji", tarballs=(tarballs[2], other))
    names = write_tarball(tmp_path / "names.tgz", {"en/data.json": b"{}"}, "emojibase-data", "99.0.0")
    with pytest.raises(DataError, match=r"emojibase-data 99\.0\.0: en/data\.json is not as expected"):
        prepare_emoji(tmp_path / "emoji", tarballs=(*tarballs[:2], names))


def test_a_broken_drawing_is_an_error(tmp_path, tarballs):
    drawings = write_tarball(tmp_path / "d.tgz", {"assets/2764.webp": b"RIFF"}, "@lobehub/fluent-emoji-3d")
    with pytest.raises(DataError, match=r"assets/2764\.webp cannot be read as a picture"):
        prepare_emoji(tmp_path / "emoji", styles=["3d"], tarballs=(drawings, tarballs[2]))
    broken = write_tarball(tmp_path / "f.tgz", {"assets/2764.svg": b"<svg"}, "@lobehub/fluent-emoji-flat")
    with pytest.raises(DataError, match=r"assets/2764\.svg cannot be read as a picture"):
        prepare_emoji(tmp_path / "emoji", tarballs=(tarballs[0], broken, tarballs[2]))
    empty = write_tarball(tmp_path / "e.tgz", {}, "@lobehub/fluent-emoji-3d")
    with pytest.raises(DataError, match="has no drawing that emojibase-data"):
        prepare_emoji(tmp_path / "emoji", styles=["3d"], tarballs=(empty, tarballs[2]))


def test_without_tarballs_npm_fetches_the_pinned_versions(tmp_path, tarballs, monkeypatch):
    fetched = []

    def pack(package, folder):
        fetched.append(package)
        return shutil.copy(tarballs[len(fetched) - 1], folder)

    monkeypatch.setattr("dmgan_train.data.prepare.emoji.pack", pack)
    prepare_emoji(tmp_path / "emoji", resolution=16)
    assert fetched == [
        "@lobehub/fluent-emoji-3d@1.1.0",
        "@lobehub/fluent-emoji-flat@1.1.0",
        "emojibase-data@17.0.0",
    ]
