from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmgan_runtime import (
    CaptionError,
    Generation,
    Generator,
    SettingsError,
)
from dmgan_runtime.noise import MAX_SEED, draw_noise
from dmgan_runtime.results import to_pil
from tests.bundles import MAX_WORDS, SPEC, WORDS

CAPTION = "a small red heart"
CAPTIONS = st.lists(st.sampled_from(WORDS[1:]), min_size=1, max_size=MAX_WORDS).map(" ".join)


def pixels(generation: Generation) -> np.ndarray:
    return np.asarray(generation.image).astype(int)


class TestGenerate:
    def test_one_caption(self, generator: Generator) -> None:
        (generation,) = generator.generate(CAPTION, seed=7)
        assert generation.caption == CAPTION
        assert generation.seed == 7
        assert generation.words == ("a", "small", "red", "heart")
        assert (generation.unknown_words, generation.cut_words) == ((), ())
        assert {side: picture.size for side, picture in generation.stages.items()} == {
            8: (8, 8),
            16: (16, 16),
            32: (32, 32),
        }
        assert generation.image is generation.stages[32]
        assert generation.attention is None
        assert generation.gates is None
        assert pixels(generation).std() > 5

    def test_captions_come_first_and_seeds_second(self, generator: Generator) -> None:
        generations = generator.generate(["a heart", "a square"], seed=5, images_per_caption=3, batch_size=2)
        assert [(each.caption, each.seed) for each in generations] == [
            (caption, seed) for caption in ("a heart", "a square") for seed in (5, 6, 7)
        ]

    @settings(max_examples=25)
    @given(
        captions=st.lists(CAPTIONS, min_size=1, max_size=4),
        seed=st.integers(0, MAX_SEED - 3),
        images=st.integers(1, 3),
        batch_size=st.integers(1, 5),
    )
    def test_a_caption_and_a_seed_are_one_picture(
        self, generator: Generator, captions: list[str], seed: int, images: int, batch_size: int
    ) -> None:
        generations = generator.generate(captions, seed=seed, images_per_caption=images, batch_size=batch_size)
        last = generations[-1]
        (alone,) = generator.generate(last.caption, seed=last.seed)
        assert abs(pixels(alone) - pixels(last)).max() <= 1

    def test_another_seed_or_caption_is_another_picture(self, generator: Generator) -> None:
        one, other = generator.generate(CAPTION, seed=1, images_per_caption=2)
        third = generator.generate("a blue square", seed=1)[0]
        assert (pixels(one) != pixels(other)).any()
        assert (pixels(one) != pixels(third)).any()

    def test_a_random_seed_is_named_and_repeats(self, generator: Generator) -> None:
        first = generator.generate([CAPTION, "a heart"])
        assert first[0].seed == first[1].seed
        again = generator.generate([CAPTION, "a heart"], seed=first[0].seed)
        np.testing.assert_array_equal(pixels(first[1]), pixels(again[1]))
        assert generator.generate(CAPTION)[0].seed != first[0].seed

    def test_words_left_out_are_reported_and_change_nothing(self, generator: Generator) -> None:
        (generation,) = generator.generate("Zebra! a small red heart and a green zebra", seed=1)
        assert generation.words == ("a", "small", "red", "heart", "and", "a")
        assert generation.unknown_words == ("zebra", "zebra")
        assert generation.cut_words == ("green",)
        (plain,) = generator.generate("a small red heart and a", seed=1)
        np.testing.assert_array_equal(pixels(generation), pixels(plain))

    @pytest.mark.parametrize("resolution", [8, 16, 32])
    def test_it_stops_at_a_resolution(self, generator: Generator, resolution: int) -> None:
        (generation,) = generator.generate(CAPTION, seed=1, resolution=resolution)
        (whole,) = generator.generate(CAPTION, seed=1)
        assert list(generation.stages) == [side for side in (8, 16, 32) if side <= resolution]
        assert generation.image.size == (resolution, resolution)
        np.testing.assert_array_equal(pixels(generation), np.asarray(whole.stages[resolution]))

    def test_attention_is_over_the_words_that_were_read(self, generator: Generator) -> None:
        short, long = generator.generate(["red heart", CAPTION], seed=1, attention=True)
        for generation, words in ((short, 2), (long, 4)):
            assert generation.attention is not None
            assert generation.gates is not None
            for resolution, side in ((16, 8), (32, 16)):
                attention, gates = generation.attention[resolution], generation.gates[resolution]
                assert attention.shape == (words, side, side)
                assert attention.dtype == np.float32
                np.testing.assert_allclose(attention.sum(axis=0), 1, atol=1e-5)
                assert gates.writing is not None
                assert gates.response is not None
                assert gates.writing.shape == (words,)
                assert gates.response.shape == (side, side)
                assert attention.base is None

    def test_attention_of_the_first_stage_is_empty(self, generator: Generator) -> None:
        (generation,) = generator.generate(CAPTION, resolution=8, attention=True)
        assert generation.attention == {}
        assert generation.gates == {}

    def test_truncation_shrinks_the_noise(self, generator: Generator) -> None:
        def spread(truncation: float) -> float:
            generations = generator.generate(CAPTION, seed=1, images_per_caption=6, truncation=truncation)
            return float(np.stack([pixels(each) for each in generations]).std(axis=0).mean())

        assert spread(0.1) < spread(0.5) < spread(1)

    def test_the_mean_condition_is_no_noise_in_it(self, generator: Generator) -> None:
        model = generator.manifest.model
        tokens = generator.tokenizer.encode_batch([CAPTION], generator.manifest.tokenizer.max_words)
        noise = draw_noise([4], model.noise_features, model.condition_features, condition="mean")
        by_hand = to_pil(generator.synthesize(*tokens, *noise).images[32][0])
        (sampled,) = generator.generate(CAPTION, seed=4)
        for condition, is_mean in (("mean", True), ("sampled", False), (None, False)):
            (generation,) = generator.generate(CAPTION, seed=4, condition=condition)
            *_, streamed = generator.stream(CAPTION, seed=4, condition=condition)
            walked = generator.interpolate(CAPTION, seeds=4, steps=2, condition=condition)[0]
            expected = pixels(sampled) if not is_mean else np.asarray(by_hand)
            for picture in (generation.image, streamed.image, walked):
                assert np.abs(np.asarray(picture).astype(int) - expected).max() <= 1
        assert np.abs(np.asarray(by_hand).astype(int) - pixels(sampled)).max() > 1

    def test_a_bundle_says_which_condition_is_its_own(self, bundle: Path, tmp_path: Path) -> None:
        own = shutil.copytree(bundle, tmp_path / "own")
        manifest = json.loads((own / "manifest.json").read_text())
        manifest["model"]["condition"] = "mean"
        (own / "manifest.json").write_text(json.dumps(manifest))
        with Generator.open(own) as generator:
            (mean,) = generator.generate(CAPTION, seed=4)
            (asked,) = generator.generate(CAPTION, seed=4, condition="mean")
            (sampled,) = generator.generate(CAPTION, seed=4, condition="sampled")
        np.testing.assert_array_equal(pixels(mean), pixels(asked))
        assert (pixels(mean) != pixels(sampled)).any()

    def test_progress_counts_images(self, generator: Generator) -> None:
        seen: list[tuple[int, int]] = []
        generator.generate(
            ["a heart", CAPTION], images_per_caption=3, batch_size=4, progress=lambda *now: seen.append(now)
        )
        assert seen == [(4, 6), (6, 6)]

    def test_no_captions_are_no_images(self, generator: Generator) -> None:
        assert generator.generate([]) == []

    def test_captions_may_come_from_an_iterator(self, generator: Generator) -> None:
        assert len(generator.generate(caption for caption in ("a heart", "a square"))) == 2

    def test_numbers_may_be_numpys(self, generator: Generator) -> None:
        one, other = np.int64(1), np.uint8(2)
        generations = generator.generate(
            CAPTION,
            seed=one,
            images_per_caption=other,
            batch_size=one,
            truncation=np.float32(0.5),
            resolution=np.int64(16),
        )
        assert [(type(each.seed), each.seed) for each in generations] == [(int, 1), (int, 2)]

    def test_it_is_shown_in_a_line(self, generator: Generator) -> None:
        (generation,) = generator.generate(CAPTION, seed=1, attention=True)
        told = repr(generation)
        assert told.startswith(f"Generation(caption='{CAPTION}', seed=1, image=<PIL.Image.Image")
        assert "array" not in told
        assert len(told) < 250

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"captions": ["a heart", "zebra"]}, CaptionError, "no word of the caption 'zebra'"),
            ({"captions": [""]}, CaptionError, "has no words"),
            ({"captions": [b"a heart"]}, CaptionError, "not bytes"),
            ({"captions": b"a heart"}, CaptionError, "captions are one str or several, not bytes; pass text"),
            ({"captions": None}, CaptionError, "captions are one str or several, not NoneType"),
            ({"captions": 5}, CaptionError, "captions are one str or several, not int"),
            ({"resolution": 64}, SettingsError, "resolution 64 is not one of this model's; pass one of 8, 16, 32"),
            ({"resolution": np.array([16, 32])}, SettingsError, "is not one of this model's"),
            ({"resolution": 16.0}, SettingsError, "resolution 16.0 is not one of this model's"),
            ({"images_per_caption": True}, SettingsError, "images_per_caption is True"),
            ({"images_per_caption": 0}, SettingsError, "images_per_caption is 0; pass a whole number, at least 1"),
            ({"images_per_caption": 1.5}, SettingsError, "images_per_caption is 1.5"),
            ({"batch_size": 0}, SettingsError, "batch_size is 0"),
            ({"seed": -1}, SettingsError, "seed -1 is out of range"),
            (
                {"seed": MAX_SEED, "images_per_caption": 2},
                SettingsError,
                rf"2 images has the seed {MAX_SEED} \+ 1, .* at most {MAX_SEED - 1}$",
            ),
            ({"seed": "7"}, SettingsError, "seed is '7'"),
            ({"seed": True}, SettingsError, "seed is True; pass a whole number"),
            ({"truncation": 0}, SettingsError, "truncation is 0"),
            ({"truncation": "0.5"}, SettingsError, "truncation is '0.5'; pass a number over 0"),
            ({"truncation": None}, SettingsError, "truncation is None"),
            ({"truncation": float("nan")}, SettingsError, "truncation is nan"),
            ({"condition": "median"}, SettingsError, "condition is 'median'; pass 'sampled', 'mean', or None"),
        ],
    )
    def test_a_wrong_argument_is_named_before_anything_is_computed(
        self, generator: Generator, arguments: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        def progress(*_: int) -> None:
            pytest.fail("something was computed")

        with pytest.raises(error, match=message):
            generator.generate(**({"captions": CAPTION} | arguments), progress=progress)


def test_encode_says_what_would_be_read(generator: Generator) -> None:
    encoding = generator.encode("a red zebra")
    assert encoding.used == ("a", "red")
    assert encoding.unknown == ("zebra",)
    with pytest.raises(CaptionError):
        generator.encode("zebra")


@settings(max_examples=25)
@given(
    neighbours=st.lists(CAPTIONS, min_size=3, max_size=3),
    others=st.lists(CAPTIONS, min_size=3, max_size=3),
    place=st.integers(0, 3),
    other_place=st.integers(0, 3),
    seed=st.integers(0, MAX_SEED),
)
def test_in_batches_of_one_size_neighbours_change_no_bit(
    generator: Generator, neighbours: list[str], others: list[str], place: int, other_place: int, seed: int
) -> None:
    neighbours.insert(place, CAPTION)
    others.insert(other_place, CAPTION)
    one = generator.generate(neighbours, seed=seed)[place]
    other = generator.generate(others, seed=seed)[other_place]
    assert one.image.tobytes() == other.image.tobytes()


class TestStream:
    def test_each_stage_is_shown(self, generator: Generator) -> None:
        previews = list(generator.stream(CAPTION, seed=3, attention=True))
        (whole,) = generator.generate(CAPTION, seed=3)
        assert [preview.image.width for preview in previews] == [8, 16, 32]
        assert [list(preview.stages) for preview in previews] == [[8], [8, 16], [8, 16, 32]]
        assert [list(preview.attention or {}) for preview in previews] == [[], [16], [16, 32]]
        np.testing.assert_array_equal(pixels(previews[-1]), pixels(whole))

    def test_it_stops_at_a_resolution(self, generator: Generator) -> None:
        assert [preview.image.width for preview in generator.stream(CAPTION, resolution=16)] == [8, 16]

    def test_all_previews_have_one_random_seed(self, generator: Generator) -> None:
        assert len({preview.seed for preview in generator.stream(CAPTION)}) == 1

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"caption": "zebra"}, CaptionError),
            ({"caption": [CAPTION]}, CaptionError),
            ({"resolution": 5}, SettingsError),
            ({"seed": -1}, SettingsError),
            ({"truncation": 2}, SettingsError),
        ],
    )
    def test_a_wrong_argument_is_an_error_at_the_call(
        self, generator: Generator, arguments: dict[str, Any], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            generator.stream(**({"caption": CAPTION} | arguments))


class TestStreamBatch:
    def test_each_image_has_its_caption_and_seed(self, generator: Generator) -> None:
        captions, seeds = [CAPTION, "blue square", CAPTION], [7, MAX_SEED, 8]
        stages = list(generator.stream_batch(captions, seeds=seeds, resolution=16, attention=True, truncation=0.5))
        for row, (caption, seed) in enumerate(zip(captions, seeds, strict=True)):
            for stage, one in zip(
                stages,
                generator.stream(caption, seed=seed, resolution=16, attention=True, truncation=0.5),
                strict=True,
            ):
                assert len(stage) == 3
                assert (stage[row].caption, stage[row].seed) == (caption, seed)
                assert stage[row].stages.keys() == one.stages.keys()
                assert (stage[row].attention or {}).keys() == (one.attention or {}).keys()
                np.testing.assert_array_equal(pixels(stage[row]), pixels(one))

    def test_seeds_that_are_left_out_are_drawn(self, generator: Generator) -> None:
        (*_, last) = generator.stream_batch([CAPTION] * 3, seeds=[None, 5, None])
        assert last[1].seed == 5
        assert len({generation.seed for generation in last}) == 3

    @pytest.mark.parametrize(
        ("captions", "seeds", "message"),
        [
            ([CAPTION], [1, 2], "1 captions and 2 seeds; pass one seed for each caption, at least one, and at most 3"),
            ([], [], "0 captions and 0 seeds"),
            ([CAPTION] * 4, [1] * 4, "4 captions and 4 seeds"),
            ([CAPTION], 1, "seeds is 1; pass one for each caption, in a list"),
            ([CAPTION], [-1], "seed -1 is out of range"),
            (["zebra"], [1], "no word of the caption 'zebra'"),
            (5, [1], "captions are one str or several, not int"),
        ],
    )
    def test_a_wrong_argument_is_an_error_at_the_call(
        self, generator: Generator, monkeypatch: pytest.MonkeyPatch, captions: Any, seeds: Any, message: str
    ) -> None:
        monkeypatch.setattr(generator, "active", replace(generator.active, max_batch=3))
        with pytest.raises((CaptionError, SettingsError), match=message):
            generator.stream_batch(captions, seeds=seeds)


class TestSynthesize:
    def test_it_is_what_generate_makes(self, generator: Generator) -> None:
        (generation,) = generator.generate("red heart", seed=9, attention=True)
        tokens = np.zeros((1, MAX_WORDS), np.int64)
        tokens[0, :2] = WORDS.index("red"), WORDS.index("heart")
        noise = draw_noise([9], SPEC.noise_features, SPEC.condition_features)
        synthesis = generator.synthesize(tokens, np.array([2]), *noise, attention=True)
        assert {side: image.shape for side, image in synthesis.images.items()} == {
            side: (1, 3, side, side) for side in (8, 16, 32)
        }
        np.testing.assert_array_equal(np.asarray(to_pil(synthesis.images[32][0])), pixels(generation))
        assert generation.attention is not None
        np.testing.assert_array_equal(synthesis.attention[16][0, :2], generation.attention[16])
        assert not synthesis.attention[16][0, 2:].any()
        assert not generator.synthesize(tokens, np.array([2]), *noise).attention

    def test_it_stops_at_a_resolution(self, generator: Generator) -> None:
        noise = draw_noise([1, 2], SPEC.noise_features, SPEC.condition_features)
        tokens = np.ones((2, MAX_WORDS), np.int64)
        synthesis = generator.synthesize(tokens, np.array([1, 6]), *noise, resolution=8)
        assert list(synthesis.images) == [8]
        assert not synthesis.attention

    def test_a_wrong_array_is_named(self, generator: Generator) -> None:
        noise = draw_noise([1], SPEC.noise_features, SPEC.condition_features)
        with pytest.raises(SettingsError, match="lengths has values from 9 to 9"):
            generator.synthesize(np.ones((1, MAX_WORDS), np.int64), np.array([9]), *noise)
        with pytest.raises(SettingsError, match=r"tokens is no array .*; pass rows of one length"):
            generator.synthesize([[1], [1, 2]], np.array([1]), *noise)  # type: ignore[arg-type]
