import contextlib
import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from dmgan_runtime.errors import DataError
from dmgan_train.data.transforms import cub_crop, cut_square, load_image, resize_short_side, scaled_side
from tests.dmgan_train.data.drawing import write_picture

RED, WHITE = (255, 0, 0), (255, 255, 255)


def saved(path, image, **options):
    image.save(path, **options)
    return load_image(path)


def ramp(width: int, height: int) -> Image.Image:
    """Red counts the columns and green the rows, so that a crop tells where it is from."""
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8))


def test_transparency_becomes_white(tmp_path):
    half = Image.new("RGBA", (2, 1), (*RED, 255))
    half.putpixel((1, 0), (0, 0, 0, 0))
    for mode in ("RGBA", "PA"):
        image = saved(tmp_path / "a.png", half if mode == "RGBA" else half.quantize(4))
        assert image.mode == "RGB"
        assert (image.getpixel((0, 0)), image.getpixel((1, 0))) == (RED, WHITE)
    veiled = saved(tmp_path / "b.png", Image.new("LA", (1, 1), (0, 128)))
    assert veiled.getpixel((0, 0)) == (127, 127, 127)


def test_one_color_may_stand_for_transparency(tmp_path):
    image = saved(tmp_path / "a.png", Image.new("RGB", (1, 1), RED), transparency=RED)
    assert image.getpixel((0, 0)) == WHITE


@pytest.mark.parametrize(("value", "shown"), [(0, 0), (65535, 255), (257 * 100, 100)])
def test_grey_of_16_bits_is_scaled(tmp_path, value, shown):
    pixels = Image.fromarray(np.full((1, 1), value, dtype=np.uint16))
    assert saved(tmp_path / "a.png", pixels).getpixel((0, 0)) == (shown, shown, shown)


def test_other_modes_become_rgb(tmp_path):
    assert saved(tmp_path / "grey.png", Image.new("L", (1, 1), 9)).getpixel((0, 0)) == (9, 9, 9)
    assert saved(tmp_path / "black.png", Image.new("1", (1, 1), 0)).getpixel((0, 0)) == (0, 0, 0)
    for suffix in ("tif", "jpg"):
        shown = saved(tmp_path / f"print.{suffix}", Image.new("CMYK", (1, 1), (0, 255, 255, 0))).getpixel((0, 0))
        assert np.abs(np.subtract(shown, RED)).max() <= 2
    assert saved(tmp_path / "video.tif", Image.new("RGB", (1, 1), RED).convert("YCbCr")).getpixel((0, 0)) == (254, 0, 0)


def test_palettes_are_shown_in_their_colours_whichever_way_they_say_what_is_transparent(tmp_path):
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    for transparency, seen in ((None, RED), (0, WHITE), (b"\x00\xff\xff", WHITE), (b"\x80", (255, 127, 127))):
        options = {} if transparency is None else {"transparency": transparency}
        image = saved(tmp_path / "a.png", palette, **options)
        assert [image.getpixel((x, 0)) for x in range(3)] == [seen, (0, 255, 0), (0, 0, 255)]
    image = saved(tmp_path / "a.gif", palette, transparency=0)
    assert image.getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_an_animated_picture_the_first_frame_is_seen(tmp_path, suffix):
    frames = [Image.new("RGB", (2, 2), color) for color in (RED, "blue", "lime")]
    options = {"lossless": True} if suffix == "webp" else {}
    image = saved(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
    assert image.getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jpg", b"", "it is empty"),
        ("a.jpg", b"<html>not found</html>", "in no format that Pillow knows"),
        ("a.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer.*git lfs pull"),
        ("a.ppm", b"P6 60000 60000 255\n", "exceeds limit of 178956970 pixels"),
    ],
)
def test_what_is_no_picture_says_what_it_is(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: cannot be read as a picture \(.*{message}"):
        load_image(tmp_path / name)


def test_floats_have_no_range_that_could_be_shown(tmp_path):
    with pytest.raises(DataError, match=r"a\.tif: .*floats, whose range is not known; save it with 8 bits"):
        saved(tmp_path / "a.tif", Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_a_photo_is_turned_as_pillow_turns_it(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"exif": exif} | ({"lossless": True} if suffix == "webp" else {})
    image = saved(tmp_path / f"a.{suffix}", ramp(3, 2), **options)
    with Image.open(tmp_path / f"a.{suffix}") as stored:
        assert image.size == ((2, 3) if orientation in (5, 6, 7, 8) else (3, 2))
        assert image.tobytes() == ImageOps.exif_transpose(stored).convert("RGB").tobytes()


def tiff_header(*entries: bytes) -> bytes:
    """EXIF of raw directory entries, with room for what they point at."""
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(64)


ORIENTATION = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)


@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (tiff_header(ORIENTATION), True),
        (tiff_header(struct.pack("<HHII", 0x010E, 5, 1, 40), ORIENTATION), True),  # a text tag stored as a rational
        (tiff_header(struct.pack("<HHII", 0x0112, 5, 1, 40)), False),  # the orientation itself is one, of 0/0
        (tiff_header(struct.pack("<HHII", 0x0112, 2, 4, 0x41414141)), False),  # or a text
        (tiff_header(struct.pack("<HHII", 0x8769, 4, 1, 0xFFFFFFF0), ORIENTATION), True),  # points nowhere
        (b"Exif\0\0rubbish after the word", False),
        (b"Exif\0\0", False),
        (b"Exif\0\0II*\0\xff\xff\xff\xff", False),
        (b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", False),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about what it finds on its way
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_that_cannot_be_read_costs_neither_the_picture_nor_the_run(tmp_path, suffix, exif, turned):
    assert saved(tmp_path / f"a.{suffix}", ramp(3, 2), exif=exif).size == ((2, 3) if turned else (3, 2))


def test_a_truncated_jpeg_is_an_error_and_never_half_grey(tmp_path):
    path = write_picture(tmp_path / "a.jpg", (64, 64))
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(DataError, match=r"a\.jpg: cannot be read as a picture .*truncated"):
        load_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about what it finds on its way
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif", "bmp"])
def test_a_file_cut_anywhere_is_a_picture_or_an_error(tmp_path, suffix):
    content = io.BytesIO()
    ramp(8, 8).save(content, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    path = tmp_path / f"cut.{suffix}"
    for length in range(0, len(content.getvalue()), 7):
        path.write_bytes(content.getvalue()[:length])
        with contextlib.suppress(DataError):
            assert load_image(path).size == (8, 8)


def test_a_missing_file_and_a_folder_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"none\.png: there is no such file"):
        load_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="cannot be read as a picture"):
        load_image(tmp_path)


@pytest.mark.parametrize(
    ("box", "left", "top", "size"),
    [
        # r = int(20 * 0.75) = 15; the center is (50, 35)
        ((40.0, 30.0, 20.0, 10.0), 35, 20, (30, 30)),
        # r = int(0.75 * 21) = 15; cx = int(101 / 2) = 50, cy = int(71 / 2) = 35
        ((40.0, 30.0, 21.0, 11.0), 35, 20, (30, 30)),
        # clipped at the left and the top
        ((0.0, 0.0, 20.0, 10.0), 0, 0, (25, 20)),
        # clipped at the right and the bottom
        ((80.0, 70.0, 20.0, 10.0), 75, 60, (25, 20)),
    ],
)
def test_the_crop_is_the_published_one(box, left, top, size):
    crop = cub_crop(ramp(100, 80), box)
    assert crop.size == size
    assert crop.getpixel((0, 0)) == (left, top, 0)


def published_crop(width, height, bbox):
    """The arithmetic of the published code."""
    r = int(np.maximum(bbox[2], bbox[3]) * 0.75)
    center_x = int((2 * bbox[0] + bbox[2]) / 2)
    center_y = int((2 * bbox[1] + bbox[3]) / 2)
    y1, y2 = np.maximum(0, center_y - r), np.minimum(height, center_y + r)
    x1, x2 = np.maximum(0, center_x - r), np.minimum(width, center_x + r)
    return x2 - x1, y2 - y1


@given(x=st.integers(0, 60), y=st.integers(0, 60), width=st.floats(2, 40, width=32), height=st.floats(2, 40, width=32))
def test_every_crop_has_the_published_size(x, y, width, height):
    box = (float(x), float(y), width, height)
    assert cub_crop(Image.new("RGB", (100, 100)), box).size == published_crop(100, 100, box)


@pytest.mark.parametrize("box", [(500.0, 5.0, 10.0, 10.0), (5.0, 5.0, 0.0, 0.0)])
def test_a_box_that_holds_nothing_is_an_error(box):
    with pytest.raises(DataError, match="holds nothing of a picture of 100x80 pixels"):
        cub_crop(ramp(100, 80), box)


def test_the_short_side_is_resized():
    assert resize_short_side(ramp(100, 80), 304).size == (380, 304)
    assert resize_short_side(ramp(80, 100), 304).size == (304, 380)
    assert resize_short_side(ramp(1, 3), 5).size == (5, 15)


@pytest.mark.parametrize(("width", "height"), [(1, 3000), (3000, 1), (1, 1), (2, 16), (2, 17), (400, 60_000)])
def test_the_middle_of_very_long_pictures_is_taken_before_they_are_scaled(width, height):
    image = resize_short_side(Image.new("RGB", (width, height)), 304)
    assert min(image.size) == 304
    assert max(image.size) == 304 * min(8, max(width, height) // min(width, height))
    middle = resize_short_side(ramp(1, 17), 3)  # rows 4 to 11
    assert middle.size == (3, 24)
    assert (middle.getpixel((0, 0))[1], middle.getpixel((0, 23))[1]) == (4, 11)


def test_random_crops_reach_every_corner_and_both_mirrorings():
    pixels, rng = np.asarray(ramp(76, 76)), np.random.default_rng(0)
    crops = [cut_square(pixels, 64, "crop_flip", rng) for _ in range(400)]
    assert {mirrored for _, mirrored in crops} == {True, False}
    for axis in (0, 1):
        assert {square[0, 0, axis] for square, _ in crops} == set(range(13))


def test_evaluation_takes_the_middle_at_the_same_scale():
    assert scaled_side(64, "crop_flip") == 76
    square, mirrored = cut_square(np.asarray(ramp(76, 96)), 64, "crop_flip", None)
    assert square.shape == (64, 64, 3)
    assert square[0, 0].tolist() == [6, 16, 0]
    assert not mirrored


def test_flip_alone_keeps_the_whole_picture():
    assert scaled_side(64, "flip") == scaled_side(64, "none") == 64
    pixels = np.asarray(ramp(64, 64))
    for augment, expected in (("flip", {True, False}), ("none", {False})):
        cut = [cut_square(pixels, 64, augment, np.random.default_rng(seed)) for seed in range(20)]
        assert {mirrored for _, mirrored in cut} == expected
        assert all(np.array_equal(square, pixels) for square, _ in cut)


@given(width=st.integers(1, 90), height=st.integers(1, 90), seed=st.integers(0, 99))
def test_any_picture_becomes_a_square(width, height, seed):
    for augment in ("crop_flip", "flip", "none"):
        scaled = resize_short_side(Image.new("RGB", (width, height)), scaled_side(16, augment))
        square, _ = cut_square(np.asarray(scaled), 16, augment, np.random.default_rng(seed))
        assert square.shape == (16, 16, 3)
