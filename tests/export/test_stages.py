"""A model of any number of stages becomes a bundle that serves its images, in every precision."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

import dmgan_runtime
from dmgan_runtime.manifest import Precision
from dmgan_runtime.noise import draw_noise
from dmgan_runtime.quality import psnr
from dmgan_train.models import GeneratorNetwork, TextEncoder
from dmgan_train.run_folder import RunFolder
from export.bundle import Model, write_bundle
from export.graph_files import Variant
from export.graphs import build_graphs
from export.parity import random_captions, reference_case, reference_graphs
from export.sources import read_model
from tests.export.models import CAPTIONS, MAX_WORDS, WORDS, small_model, small_spec
from tests.training import train_small

PRECISIONS: dict[int, tuple[Precision, ...]] = {1: ("fp16", "int8"), 3: (), 4: ("int8",)}
"""Beside fp32, by the number of stages. Three stages are exported in every precision elsewhere."""


@pytest.fixture(scope="module")
def models(run: RunFolder, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Model]:
    """Of runs, but for the one whose only stage is exported in many tests."""
    steps = ("model.stages=4", "gan.steps=1", "damsm.steps=2")
    four = train_small(images, tmp_path_factory.mktemp("runs") / "four", *steps)
    four.captions_file.write_text("".join(f"{caption}\n" for caption in CAPTIONS))  # int8 needs more than there are
    return {1: small_model(1), 3: read_model(run, "squares", ""), 4: read_model(four, "squares", "")}


@pytest.fixture(scope="module")
def bundles(models: dict[int, Model], bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("stages")
    paths = {stages: bundle if stages == 3 else folder / str(stages) for stages in models}
    for stages, precisions in PRECISIONS.items():
        if stages != 3:
            write_bundle(models[stages], paths[stages], lambda _: None, precisions)
    return paths


def trained_images(model: Model, captions: tuple[str, ...], seeds: range) -> list[npt.NDArray[np.float32]]:
    """The images of the PyTorch model itself."""
    spec = model.generator.spec
    tokens, lengths = map(torch.from_numpy, model.tokenizer.encode_batch(captions, model.max_words))
    noise = map(torch.from_numpy, draw_noise(seeds, spec.noise_features, spec.condition_features))
    with torch.inference_mode():
        words, sentence = model.text_encoder(tokens, lengths)
        output = model.generator(sentence, words, lengths, *noise)
    return [image.numpy() for image in output.images]


@pytest.mark.parametrize(
    ("stages", "precision"),
    [(stages, precision) for stages, others in PRECISIONS.items() for precision in ("fp32", *others)],
)
def test_the_served_images_are_the_models(models, bundles, stages: int, precision: str) -> None:
    captions, seeds = ("a red square", "a blue square on white"), range(2)
    model = models[stages]
    tokens, lengths = model.tokenizer.encode_batch(captions, model.max_words)
    noise = draw_noise(seeds, model.generator.spec.noise_features, model.generator.spec.condition_features)
    with dmgan_runtime.Generator.open(bundles[stages], device="cpu", precision=precision) as generator:
        served = generator.synthesize(tokens, lengths, *noise, attention=True)
        assert [each.image.width for each in generator.stream("a red square", seed=0)] == list(served.images)
    assert list(served.images) == [8 << stage for stage in range(stages)]
    assert list(served.attention) == list(served.images)[1:]
    for image, expected in zip(served.images.values(), trained_images(model, captions, seeds), strict=True):
        if precision == "fp32":
            np.testing.assert_allclose(image, expected, atol=1e-4, rtol=0)
        else:
            assert psnr(image, expected) > {"fp16": 50, "int8": 35}[precision]


@pytest.mark.parametrize("stages", [1, 3, 4])
def test_the_last_stage_has_no_features(bundles, stages: int) -> None:
    for stage in range(stages):
        graph = onnx.load(bundles[stages] / f"onnx/generator_{stage}.onnx").graph
        assert ("features" in [output.name for output in graph.output]) == (stage < stages - 1)
    assert not (bundles[stages] / f"onnx/generator_{stages}.onnx").exists()


@pytest.mark.parametrize(("stages", "pyramid"), [(1, "8x8"), (4, "8x8, 16x16, 32x32, 64x64")])
def test_the_card_names_every_resolution(bundles, stages: int, pyramid: str) -> None:
    card = (bundles[stages] / "MODEL_CARD.md").read_text()
    assert f"to images of {pyramid} pixels." in card
    assert f"| stages | {stages} |" in card


@pytest.mark.parametrize("stages", [1, 2, 6])
def test_each_stage_is_fed_with_the_one_before(stages: int) -> None:
    spec = small_spec(stages)
    encoder, generator = TextEncoder(len(WORDS), spec).eval(), GeneratorNetwork(spec).eval()
    graphs = build_graphs(encoder, generator, MAX_WORDS)
    assert tuple(graphs) == spec.roles
    case = reference_case(reference_graphs(encoder, generator, MAX_WORDS), random_captions(len(WORDS), MAX_WORDS)[0], 0)
    for before, after in zip(spec.generator_roles, spec.generator_roles[1:], strict=False):
        assert torch.equal(case[f"{before}.features"], case[f"{after}.previous_features"])
    assert f"{spec.generator_roles[-1]}.features" not in case
    with torch.inference_mode():
        images = generator(
            *(case[f"text_encoder.{name}"] for name in ("sentence_feature", "word_features", "lengths")),
            *(case[f"generator_0.{name}"] for name in ("noise", "condition_noise")),
        ).images
    assert len(images) == stages
    for role, image in zip(spec.generator_roles, images, strict=True):
        torch.testing.assert_close(case[f"{role}.image"], image, atol=1e-4, rtol=0)


def test_fp32_for_gpus_has_transposed_convolutions(models, tmp_path) -> None:
    manifest = write_bundle(models[1], tmp_path / "b", lambda _: None, up_blocks="transposed")
    assert [graph.up_blocks for graph in manifest.graphs] == [None, "transposed"]
    operators = [node.op_type for node in onnx.load(tmp_path / "b" / "onnx/generator_0.onnx").graph.node]
    assert operators.count("ConvTranspose") == 1
    assert Variant("fp32", "transposed").purpose == "for GPUs that compute in fp32"
