import pickletools
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dmgan_runtime.errors import DataError, SettingsError
from dmgan_train.data.cub import load_cub
from dmgan_train.data.prepare.synthetic import (
    BACKGROUND_COLOURS,
    BACKGROUNDS,
    BILL_COLOURS,
    BILL_SHAPES,
    PALETTE,
    PARTS,
    SIDE,
    SIZES,
    Bird,
    Plumage,
    Pose,
    bounding_box,
    cropped_points,
    nearest_colour,
    paint,
    paint_dataset,
    part_points,
)
from dmgan_train.data.prepare.synthetic.captions import MAX_WORDS
from dmgan_train.data.prepare.synthetic.species import MAX_SPECIES, draw_species
from dmgan_train.staging import staging_folder

COUNT = 104

PART_WORDS = {"crown": "crown", "belly": "belly", "breast": "belly", "wings": "wing", "bill": "bill", "beak": "bill"}
COLOUR = "|".join(PALETTE)
PLACES = {
    "sky": "sky",
    "leaves": "leaves",
    "green background": "leaves",
    "water": "water",
    "sand": "sand",
    "snow": "snow",
    "dusk": "dusk",
    "pink sky": "dusk",
}

colours = st.sampled_from(list(PALETTE))
unit = st.floats(-1, 1)
poses = st.builds(
    lambda lean, nod, girth, scale, right, down: Pose(
        2 * lean, 2 * nod, 1 + 0.02 * girth, 1 + 0.05 * scale, (0.01 * right, 0.01 * down)
    ),
    *[unit] * 6,
)
birds = st.builds(
    Bird,
    st.builds(Plumage, colours, colours, colours, colours, st.sampled_from(BILL_SHAPES)),
    st.sampled_from(SIZES),
    st.sampled_from(BACKGROUNDS),
    poses,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "birds"
    paint_dataset(root, count=COUNT, seed=3)
    return root


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def named_colours(caption: str) -> list[tuple[str, str]]:
    """What a caption says of parts, read by rules of its own: (part, colour) in the order of the text."""
    words = "|".join(PART_WORDS)
    before = re.findall(rf"\b({COLOUR}) ({words})\b", caption)
    after = re.findall(rf"\b({words}) (?:is|are) ({COLOUR})\b", caption)
    return [(PART_WORDS[part], colour) for colour, part in before] + [(PART_WORDS[p], c) for p, c in after]


def named_place(caption: str) -> str | None:
    found = [place for words, place in PLACES.items() if re.search(rf" {words}y?\b", caption)]
    return found[-1] if found else None


def measured(picture: Image.Image, bird: Bird) -> dict[str, str]:
    return {part: nearest_colour(patch(picture, bird, part)) for part in PARTS}


def patch(picture: Image.Image, bird: Bird, part: str) -> np.ndarray:
    x, y = part_points(bird)[part]
    return np.asarray(picture)[y - 1 : y + 2, x - 1 : x + 2].mean(axis=(0, 1))


class TestCaptions:
    @given(birds, st.integers(0, 2**32))
    def test_name_three_attributes_and_never_a_wrong_one(self, bird: Bird, seed: int) -> None:
        captions = bird.captions(np.random.default_rng(seed))
        assert len(captions) == 10
        for caption in captions:
            said = named_colours(caption)
            assert set(said) <= set(bird.colours.items())
            assert len(dict(said)) == len(said), "a part is named twice"
            assert len(re.findall(rf"\b({COLOUR})\b(?! sky| background)", caption)) == len(said)
            sizes = re.findall(r"\b(small|medium|large)\b", caption)
            assert sizes == [bird.size] or (not sizes and bird.size == "medium")
            assert set(re.findall(r"\b(short|long|curved)\b", caption)) <= {bird.plumage.bill_shape}
            assert named_place(caption) in (None, bird.background)
            assert len(said) + len(sizes) >= 3

    @given(birds, st.integers(0, 2**32))
    def test_are_short_plain_english(self, bird: Bird, seed: int) -> None:
        for caption in bird.captions(np.random.default_rng(seed)):
            assert re.fullmatch(r"[a-z, ]+", caption)
            assert len(caption.split()) <= MAX_WORDS
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  |,,", caption)

    def test_name_every_kind_of_attribute_in_the_long_run(self) -> None:
        rng = np.random.default_rng(0)
        bird = Bird(Plumage("red", "white", "black", "yellow", "long"), "small", "snow")
        captions = [caption for _ in range(20) for caption in bird.captions(rng)]
        counts = Counter(part for caption in captions for part, _ in named_colours(caption))
        assert min(counts[part] for part in PARTS) > 0.6 * len(captions)
        for word in ("small", "long", "snow", "against", "its"):
            assert sum(word in caption for caption in captions) > 0.03 * len(captions)
        assert len(set(captions)) > 0.7 * len(captions)


class TestPainting:
    def test_parts_have_the_named_colours(self) -> None:
        rng = np.random.default_rng(1)
        for species in islice(draw_species(rng), 45):
            bird = Bird.draw(species.plumage, rng)
            picture = paint(bird, rng)
            assert (picture.size, picture.mode) == ((SIDE, SIDE), "RGB")
            assert measured(picture, bird) == bird.colours

    @pytest.mark.parametrize("background", BACKGROUNDS)
    def test_backgrounds_can_be_told_apart(self, background: str) -> None:
        for seed in range(8):
            rng = np.random.default_rng(seed)
            bird = Bird(Plumage("red", "white", "black", "yellow"), "medium", background, Pose.draw(rng))
            pixels = patch(paint(bird, rng), bird, "background")
            assert nearest_colour(pixels, among=BACKGROUND_COLOURS) == background

    def test_parts_keep_their_colours_in_a_training_image_of_64_pixels(self) -> None:
        rng = np.random.default_rng(2)
        for species in islice(draw_species(rng), 18):
            bird = Bird.draw(species.plumage, rng)
            left, top, width, height = bounding_box(bird)
            half, x, y = 0.75 * max(width, height), left + width / 2, top + height / 2
            box = [int(min(max(edge, 0), SIDE)) for edge in (x - half, y - half, x + half, y + half)]
            image = paint(bird, rng).crop(box).resize((76, 76), Image.Resampling.BILINEAR).crop((6, 6, 70, 70))
            points = cropped_points(bird, 64)
            assert {part: nearest_colour(image.getpixel(points[part])) for part in PARTS} == bird.colours

    @given(birds)
    def test_boxes_and_points_lie_inside_the_picture(self, bird: Bird) -> None:
        left, top, width, height = bounding_box(bird)
        assert 0 <= left < left + width <= SIDE
        assert 0 <= top < top + height <= SIDE
        assert max(width, height) > 0.4 * SIDE
        for part, (x, y) in part_points(bird).items():
            assert 0 <= x < SIDE
            assert 0 <= y < SIDE
            assert part == "background" or (left <= x <= left + width and top <= y <= top + height)

    def test_the_box_holds_the_bird_and_no_more(self) -> None:
        bird = Bird(Plumage("red", "red", "red", "red"), background="snow")
        red = (np.asarray(paint(bird, np.random.default_rng(0))).astype(int) @ (1, -1, 0)) > 60
        rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
        left, top, width, _ = bounding_box(bird)
        assert (columns[0], columns[-1], rows[0]) == pytest.approx((left, left + width, top), abs=3)

    @pytest.mark.parametrize("name", PALETTE)
    def test_a_colour_is_nearest_to_itself_in_light_and_shade(self, name: str) -> None:
        for factor in (0.85, 1.0, 1.1):
            assert nearest_colour(np.clip(np.array(PALETTE[name]) * factor, 0, 255)) == name

    def test_refuses_what_it_cannot_paint(self) -> None:
        with pytest.raises(SettingsError, match="crown cannot be 'mauve'; choose one of red, "):
            Plumage("mauve", "white", "black", "yellow")
        with pytest.raises(SettingsError, match="size cannot be 'tiny'; choose one of small, "):
            Bird(Plumage("red", "white", "black", "yellow"), size="tiny")


class TestSpecies:
    def test_are_unlike_each_other(self) -> None:
        species = list(draw_species(np.random.default_rng(0)))
        assert len({one.name for one in species}) == len(species) == MAX_SPECIES
        assert len({(p.crown, p.belly, p.wing, p.bill) for _, p, _ in species}) == MAX_SPECIES
        assert all(p.belly not in (p.crown, p.wing, p.bill) for _, p, _ in species)
        assert all(re.fullmatch(r"[A-Z][A-Za-z_]+", one.name) for one in species)

    @pytest.mark.parametrize("seed", range(5))
    def test_of_training_have_every_colour_from_the_twelfth_on(self, seed: int) -> None:
        training = [one.plumage for one in islice(draw_species(np.random.default_rng(seed)), 12) if one.training]
        for part in ("crown", "belly", "wing"):
            assert {getattr(plumage, part) for plumage in training} == set(PALETTE)
        assert {plumage.bill for plumage in training} == set(BILL_COLOURS)


class TestDataset:
    def test_is_the_same_each_time_with_any_number_of_threads(self, root: Path, tmp_path: Path) -> None:
        paint_dataset(tmp_path / "again", count=COUNT, seed=3, workers=1)
        assert files(tmp_path / "again") == files(root)

    def test_an_image_depends_on_the_seed_and_its_number_alone(self, root: Path, tmp_path: Path) -> None:
        paint_dataset(tmp_path / "fewer", count=20, seed=3)
        fewer, all_of_them = files(tmp_path / "fewer"), files(root)
        images = [name for name in fewer if name.startswith(("text/", "CUB_200_2011/images/"))]
        assert len(images) == 40
        assert all(fewer[name] == all_of_them[name] for name in images)

        paint_dataset(tmp_path / "other", count=20, seed=4)
        assert not set(fewer.values()) & {v for k, v in files(tmp_path / "other").items() if k.endswith("jpg")}

    def test_the_lists_fit_each_other_and_the_files(self, root: Path) -> None:
        def column(name: str) -> list[str]:
            lines = (root / "CUB_200_2011" / f"{name}.txt").read_text().splitlines()
            numbers, values = zip(*(line.split(" ", 1) for line in lines), strict=True)
            assert numbers == tuple(map(str, range(1, len(lines) + 1)))
            return list(values)

        images, boxes, labels = column("images"), column("bounding_boxes"), column("image_class_labels")
        classes, training = column("classes"), column("train_test_split")
        assert len(images) == len(boxes) == len(labels) == len(training) == COUNT
        assert len(classes) == COUNT / 4
        assert classes[0].startswith("001.")
        for image, box, label in zip(images, boxes, labels, strict=True):
            assert re.fullmatch(r"\d{3}\.([A-Z]\w+)/\1_\d{4}_\d+\.jpg", image)
            assert classes[int(label) - 1] == image.split("/")[0]
            with Image.open(root / "CUB_200_2011" / "images" / image) as picture:
                assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (SIDE, SIDE))
            left, top, width, height = map(float, box.split())
            assert 0 <= left < left + width <= SIDE
            assert 0 <= top < top + height <= SIDE
        by_split = {
            split: [i[:-4] for i, t in zip(images, training, strict=True) if t == flag]
            for split, flag in (("train", "1"), ("test", "0"))
        }
        for split, keys in by_split.items():
            examples = load_cub(root, split).examples
            assert [example.key for example in examples] == keys
            assert [f"{example.class_id:03}" for example in examples] == [key[:3] for key in keys]
            assert all(len(example.captions) == 10 for example in examples)
        assert not {key[:3] for key in by_split["train"]} & {key[:3] for key in by_split["test"]}
        assert 0.2 < len(by_split["test"]) / COUNT < 0.35

    def test_the_captions_fit_the_pictures_on_disk(self, root: Path) -> None:
        for number in range(0, COUNT, 24):
            captions = sorted((root / "text").glob(f"{number // 4 + 1:03}.*/*_0001_*.txt"))[0]
            said = dict(pair for line in captions.read_text().splitlines() for pair in named_colours(line))
            assert set(said) == set(PARTS)
            bird = Bird(Plumage(*(said[part] for part in ("crown", "belly", "wing", "bill"))))
            name = captions.relative_to(root / "text").with_suffix(".jpg")
            with Image.open(root / "CUB_200_2011" / "images" / name) as picture:
                seen = {nearest_colour(pixel) for pixel in np.asarray(picture)[::3, ::3].reshape(-1, 3)}
            assert set(bird.colours.values()) <= seen

    @pytest.mark.parametrize("name", ["filenames", "class_info"])
    def test_the_pickles_are_plain(self, root: Path, name: str) -> None:
        plain = {"PROTO", "EMPTY_LIST", "MARK", "APPENDS", "STOP", "BINUNICODE", "BININT1", "BININT2", "BINPUT"}
        for split in ("train", "test"):
            operations = pickletools.genops((root / split / f"{name}.pickle").read_bytes())
            assert {operation.name for operation, *_ in operations} <= plain | {"LONG_BINPUT"}

    def test_tells_how_far_it_is(self, tmp_path: Path) -> None:
        told = []
        paint_dataset(tmp_path / "birds", count=16, progress=lambda done, count: told.append((done, count)))
        assert told == [(done, 16) for done in range(1, 17)]

    def test_takes_an_empty_folder_and_makes_missing_ones(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        paint_dataset(tmp_path / "empty", count=16)
        paint_dataset(tmp_path / "a" / "b", count=16)
        assert files(tmp_path / "empty") == files(tmp_path / "a" / "b")

    def test_refuses_to_write_over_anything(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        for path in (tmp_path, tmp_path / "notes.txt"):
            with pytest.raises(DataError, match="already there and not empty; delete it or name another folder"):
                paint_dataset(path, count=16)
        with pytest.raises(DataError, match="cannot be written"):
            paint_dataset(tmp_path / "notes.txt" / "birds", count=16)
        assert files(tmp_path) == {"notes.txt": b"mine"}

    def test_leaves_nothing_behind_when_it_fails(self, tmp_path: Path) -> None:
        def stop(done: int, count: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            paint_dataset(tmp_path / "birds", count=200, progress=stop)
        assert list(tmp_path.iterdir()) == []

    def test_clears_what_a_killed_one_left_and_leaves_a_running_one_alone(self, tmp_path: Path) -> None:
        left = tmp_path / ".birds.partial" / "work" / "painted"
        left.mkdir(parents=True)
        (left / "half.jpg").write_bytes(b"half")
        paint_dataset(tmp_path / "birds", count=16)
        assert [path.name for path in tmp_path.iterdir()] == ["birds"]
        with (
            staging_folder(tmp_path / "other"),
            pytest.raises(DataError, match="other: another process is making it; wait for that"),
        ):
            paint_dataset(tmp_path / "other", count=16)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"count": 7}, "count=7 is too small for painted birds; give 8 or more"),
            ({"count": 8, "seed": -1}, "seed=-1 is too small"),
            ({"count": 8, "workers": 0}, "workers=0 is too small"),
        ],
    )
    def test_refuses_numbers_out_of_range(self, tmp_path: Path, arguments: dict[str, int], message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            paint_dataset(tmp_path / "birds", **arguments)
