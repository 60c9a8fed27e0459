"""A PSNR that nothing can fool, and messages that hide nothing."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dmgan_runtime.errors import ExportError
from dmgan_train.loading import load_model
from export import bundle
from export.graphs import build_graphs
from export.parity import check_images, decibels, psnr, random_captions, reference_case, rounding_errors

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
    check_images(expected, expected, precision)
    with pytest.raises(ExportError, match=f"at 8 pixels in {precision} differs"):
        check_images(images, expected, precision)


def test_a_psnr_just_under_its_limit_does_not_read_as_the_limit() -> None:
    assert decibels(34.98) == "34.9 dB"
    sign = np.sign(NOISE).astype(np.float32)
    close = NOISE + sign * np.float32((NOISE.max() - NOISE.min()) * 10 ** (-34.98 / 20))
    with pytest.raises(ExportError, match=r"\(34\.9 dB\), and 35 dB are needed; no bundle was written.*without --int8"):
        check_images(close, NOISE, "int8")


def test_the_rounding_of_pytorch_is_small_and_is_measured(run) -> None:
    text_encoder, generator, _ = load_model(run)
    graphs = build_graphs(text_encoder, generator, 7)
    case = reference_case(graphs, random_captions(len(run.vocabulary()), 7)[1], seed=0)
    errors = rounding_errors(graphs, case)
    assert len(errors) == 3
    assert all(0 < error < 1e-5 for error in errors)
    assert generator.initial.project[0].weight.dtype == torch.float32


@pytest.mark.parametrize(("rounding", "accepted"), [(0.0, False), (1.4e-4, False), (1.6e-4, True)])
def test_fp32_may_be_twice_as_far_from_pytorch_as_pytorch_is_from_the_exact_image(
    rounding, accepted, monkeypatch
) -> None:
    class Server:
        def synthesize(self, *inputs):
            return SimpleNamespace(images={8: NOISE + np.float32(3e-4)})

    monkeypatch.setattr(bundle, "rounding_errors", lambda *_: [rounding])
    names = ("text_encoder.tokens", "text_encoder.lengths", "generator_0.noise", "generator_0.condition_noise")
    case = dict.fromkeys(names, torch.zeros(1)) | {"generator_0.image": torch.from_numpy(NOISE)}
    with nullcontext() if accepted else pytest.raises(ExportError, match="over the tolerance of"):
        bundle._check_end_to_end(Server(), case, "fp32", {})
