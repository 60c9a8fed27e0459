"""A PSNR that nothing can fool, and messages that hide nothing."""

import math

import numpy as np
import pytest
import torch

from dmgan_runtime.errors import ExportError
from dmgan_runtime.manifest import ModelSpec
from dmgan_runtime.quality import decibels, psnr
from dmgan_train.models import GeneratorNetwork, TextEncoder
from export.parity import check_images, random_captions, reference_case, reference_graphs

NOISE = np.random.default_rng(0).uniform(-1, 1, (1, 3, 8, 8)).astype(np.float32)
FLAT = np.full_like(NOISE, -1)


def test_psnr_is_that_of_the_formula() -> None:
    wanted = np.array([0.0, 1.0], dtype=np.float32)
    assert psnr(wanted + np.float32(0.1), wanted) == pytest.approx(20, abs=1e-5)


@pytest.mark.parametrize(
    ("actual", "expected", "quality"),
    [
        (NOISE, NOISE, math.inf),
        (FLAT, FLAT, math.inf),
        (FLAT + 1, FLAT, -math.inf),
        (np.full_like(NOISE, np.nan), NOISE, -math.inf),
        (np.full_like(NOISE, np.inf), NOISE, -math.inf),
        (NOISE, np.full_like(NOISE, np.nan), -math.inf),
    ],
)
def test_what_is_no_number_or_differs_from_the_constant_is_no_likeness(actual, expected, quality) -> None:
    assert psnr(actual, expected) == quality


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(
    ("images", "expected"), [(np.full_like(NOISE, np.nan), NOISE), (FLAT + 1.5, FLAT), (-NOISE, NOISE)]
)
def test_images_of_no_likeness_are_refused_in_every_precision(images, expected, precision) -> None:
    check_images(expected, expected, precision, 0)
    with pytest.raises(ExportError, match=f"at 8 pixels in {precision} differs"):
        check_images(images, expected, precision, 2)


def test_a_psnr_just_under_its_limit_does_not_read_as_the_limit() -> None:
    assert decibels(34.98) == "34.9 dB"
    sign = np.sign(NOISE).astype(np.float32)
    close = NOISE + sign * np.float32((NOISE.max() - NOISE.min()) * 10 ** (-34.98 / 20))
    with pytest.raises(ExportError, match=r"\(34\.9 dB\), and 35 dB are needed; no bundle was written.*without --int8"):
        check_images(close, NOISE, "int8", 0)


def test_one_bad_image_is_not_hidden_by_good_ones() -> None:
    expected = np.repeat(NOISE, 16, axis=0)
    images = expected.copy()
    images[7] += np.float32((NOISE.max() - NOISE.min()) * 10 ** (-30 / 20))
    assert psnr(images, expected) > 40
    assert check_images(expected[:7], expected[:7], "int8", 0) == math.inf
    with pytest.raises(ExportError, match=r"\((30\.0|29\.9) dB\), and 35 dB are needed"):
        check_images(images, expected, "int8", 0)


def test_the_reference_is_what_float64_gives() -> None:
    spec = ModelSpec(base_resolution=16, generator_channels=4, text_features=8, noise_features=4, memory_features=4)
    encoder, generator = TextEncoder(9, spec).eval(), GeneratorNetwork(spec).eval()
    graphs = reference_graphs(encoder, generator, 5)
    assert {value.dtype for graph in graphs.values() for value in graph.parameters()} == {torch.float64}
    assert {value.dtype for value in generator.parameters()} == {torch.float32}
    case = reference_case(graphs, random_captions(9, 5)[1], seed=1)
    feeds = [case[f"generator_1.{name}"] for name in ("previous_features", "word_features", "lengths")]
    with torch.no_grad():
        exact = graphs["generator_1"](feeds[0].double(), feeds[1].double(), feeds[2])
    assert torch.equal(case["generator_1.image"], exact[0].float())


def test_weights_that_are_no_numbers_are_the_files_fault() -> None:
    spec = ModelSpec(base_resolution=16, generator_channels=4, text_features=8, noise_features=4, memory_features=4)
    encoder, generator = TextEncoder(9, spec).eval(), GeneratorNetwork(spec).eval()
    weight = next(parameter for name, parameter in generator.named_parameters() if name.endswith("weight"))
    weight.data.flatten()[0] = math.nan
    with pytest.raises(ExportError, match=r"generator_0 makes no finite numbers .* weights are damaged"):
        reference_case(reference_graphs(encoder, generator, 5), random_captions(9, 5)[0], seed=1)


def test_stages_beyond_the_papers_may_amplify_what_those_before_them_round() -> None:
    rounded = NOISE + np.random.default_rng(1).normal(0, 1e-5, NOISE.shape).astype(np.float32)
    rounded.flat[0] += 5e-4
    check_images(rounded, NOISE, "fp32", 3)
    with pytest.raises(ExportError, match=r"over the tolerance of 1\.00e-04"):
        check_images(rounded, NOISE, "fp32", 2)
    with pytest.raises(ExportError, match="90 dB are needed"):
        check_images(NOISE + np.float32(1e-3), NOISE, "fp32", 4)
