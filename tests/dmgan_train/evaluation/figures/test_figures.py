import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from dmgan_train.cli import main
from dmgan_train.evaluation.figures.sheet import legible, sheet
from dmgan_train.evaluation.figures.stages import draw_stages
from dmgan_train.evaluation.figures.words import top_words
from dmgan_train.evaluation.image_source import RunSource

CAPTION = "a red square on white"


def invoke(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def holds(picture: Image.Image, part: Image.Image) -> bool:
    """Whether a picture holds another one, pixel by pixel, somewhere."""
    whole, wanted = np.asarray(picture).astype(int), np.asarray(part).astype(int)
    height, width = wanted.shape[:2]
    corners = np.argwhere((whole[: 1 - height, : 1 - width] == wanted[0, 0]).all(axis=2))
    return any((whole[y : y + height, x : x + width] == wanted).all() for y, x in corners)


@pytest.mark.parametrize("model", ["run", "bundle"])
def test_every_figure_is_drawn_from_a_run_and_from_a_bundle(request, model, run, bundle, images, tmp_path) -> None:
    path = run.root if model == "run" else bundle
    figures = {
        "stages": [CAPTION, "this square is blue"],
        "seeds": [CAPTION, "--count", 2],
        "words": [CAPTION],
        "real": ["--data", images, "--rows", 2, "--count", 2],
    }
    for name, arguments in figures.items():
        output = tmp_path / f"{name}.png"
        result = invoke("figure", name, path, *arguments, "--seed", 3, "-o", output)
        assert result.exit_code == 0, result.output
        with Image.open(output) as picture:
            assert picture.width > 300
            assert picture.height > 150


def test_each_stage_of_each_caption_is_in_the_figure(run) -> None:
    source = RunSource(run, torch.device("cpu"))
    captions = [CAPTION, "this square is blue"]
    picture = draw_stages(source, captions, seed=9)
    for generation in source.explain(captions, [9, 9]):
        assert all(holds(picture, legible(stage)) for stage in generation.stages.values())


def test_the_words_are_ranked_by_their_share_of_all_pixels() -> None:
    shares = [0.1, 0.3, 0.05, 0.2, 0.15, 0.2]
    attention = np.stack([np.full((4, 4), share, dtype=np.float32) for share in shares])
    attention[2, 0, 0] = 1.0  # one bright pixel is not much of the picture
    assert top_words(attention) == [1, 3, 5, 4, 2]


def test_a_sheet_has_its_pictures_under_headings() -> None:
    colours = ["red", "green", "blue", "black"]
    parts = [Image.new("RGB", (40, 40), colour) for colour in colours]
    picture = sheet([parts[:2], parts[2:]], ["first row", "second row"], ["left", "right"])
    assert all(holds(picture, part) for part in parts)
    bare = sheet([parts[:2], parts[2:]], ["first row", "second row"])
    assert bare.height < picture.height


def test_small_pictures_are_enlarged_by_whole_pixels() -> None:
    picture = Image.fromarray(np.array([[[0] * 3, [255] * 3], [[255] * 3, [0] * 3]], dtype=np.uint8))
    large = np.asarray(legible(picture, 8))
    assert set(np.unique(large)) == {0, 255}
    assert legible(Image.new("RGB", (300, 300)), 8).size == (8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["words", "zebra"], "zebra"), (["stages", CAPTION, "-o", "figure.txt"], "end it in")],
)
def test_a_users_mistake_is_a_message(run, arguments, message) -> None:
    name, *rest = arguments
    result = invoke("figure", name, run.root, *rest)
    assert result.exit_code == 2, result.output
    assert message in result.output
