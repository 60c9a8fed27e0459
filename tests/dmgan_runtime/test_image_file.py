from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dmgan_runtime import Generator, SettingsError
from dmgan_runtime.errors import printable
from dmgan_runtime.image_file import check_format, encode, save


def plain(colour: str, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new("RGB", size, colour)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG", "a.webp", "x" * 240 + ".png"])
def test_a_picture_is_saved_into_a_new_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new" / "folder" / name
    save(plain("red"), path)
    with Image.open(path) as picture:
        assert picture.size == (16, 16)
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    save(plain("red"), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("name", ["a", "a.txt", "a.onnx", ".png"])
def test_an_unknown_format_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"end it in \.png, \.jpg, \.jpeg, \.webp"):
        check_format(Path(name))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    save(plain("red"), path)
    before = path.read_bytes()

    def full_disk(_: Image.Image, file: Path, **__: object) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(plain("blue"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("name", "side"), [("wide.webp", 16_384), ("wide.jpg", 65_501)])
def test_a_picture_that_is_too_large_for_its_format_is_named(tmp_path: Path, name: str, side: int) -> None:
    with pytest.raises(SettingsError, match=rf"{name}: a picture of {side}x1 pixels, .*; end the name in .png"):
        save(Image.new("RGB", (side, 1)), tmp_path / name)
    assert not (tmp_path / name).exists()


@given(st.text(max_size=50))
def test_text_lies_in_a_png_as_it_would_be_printed(text: str) -> None:
    content = encode(plain("red"), "PNG", {"Description": text, "Seed": "7"})
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.text == {"Description": printable(text), "Seed": "7"}
        assert picture.getpixel((0, 0)) == (255, 0, 0)
    latin = all(ord(character) < 256 for character in printable(text))
    assert (b"iTXtDescription" in content) == (not latin)


def test_emoji_lie_in_a_png_as_they_were_typed() -> None:
    typed = "👩🏽\u200d🚀 and ❤️"
    with Image.open(io.BytesIO(encode(plain("red"), "PNG", {"Description": typed}))) as picture:
        assert picture.text == {"Description": typed}


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_other_formats_have_no_text(file_format: str) -> None:
    content = encode(plain("red"), file_format, {"Description": "red heart"})
    assert b"red heart" not in content
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == file_format


def test_a_generation_is_saved_with_its_caption_and_seed(generator: Generator, tmp_path: Path) -> None:
    generation = generator.generate("a red heart of 愛", seed=7)[0]
    generation.save(tmp_path / "new" / "with.png")
    generation.save(f"{tmp_path}/without.png", metadata=False)
    generation.save(tmp_path / "picture.webp")
    with Image.open(tmp_path / "new" / "with.png") as picture:
        assert picture.text == {"Description": "a red heart of 愛", "Seed": "7"}
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(generation.image))
    with Image.open(tmp_path / "without.png") as picture:
        assert picture.text == {}
