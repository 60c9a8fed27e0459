import pytest
import torch

from dmgan_runtime.manifest import ModelSpec
from dmgan_train.models import GeneratorNetwork, build_discriminators

SMALL = {"generator_channels": 4, "text_features": 8, "noise_features": 5, "condition_features": 3}
ABLATIONS = [("gated", "gated"), ("gated", "concatenation"), ("words", "concatenation"), ("none", "concatenation")]


def run(generator: GeneratorNetwork, batch: int = 2, words: int = 6):
    spec = generator.spec
    return generator(
        torch.randn(batch, spec.text_features),
        torch.randn(batch, spec.text_features, words),
        torch.arange(1, batch + 1),
        torch.randn(batch, spec.noise_features),
        torch.randn(batch, spec.condition_features),
    )


def test_paper_size_has_the_papers_parameters() -> None:
    with torch.device("meta"):
        generator = GeneratorNetwork(ModelSpec())
    assert sum(parameter.numel() for parameter in generator.parameters()) == 21_449_042


@pytest.mark.parametrize(("base", "stages"), [(8, 3), (16, 3), (64, 3), (32, 1), (16, 2), (8, 6)])
def test_every_stage_doubles_the_image(base, stages) -> None:
    output = run(GeneratorNetwork(ModelSpec(base_resolution=base, stages=stages, **SMALL)))
    assert [image.shape[-1] for image in output.images] == [base << stage for stage in range(stages)]
    assert [2 * memory.features.shape[-1] for memory in output.memories] == [
        base << stage for stage in range(1, stages)
    ]
    assert all(image.abs().max() <= 1 for image in output.images)


def test_without_refinement_the_noise_and_the_sentence_alone_make_the_image() -> None:
    generator = GeneratorNetwork(ModelSpec(base_resolution=8, stages=1, **SMALL))
    output = run(generator)
    (output.images[-1].square().mean() + output.condition.mean.sum()).backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())
    assert output.memories == ()


@pytest.mark.parametrize(("writing", "response"), ABLATIONS)
def test_every_ablation_trains(writing, response) -> None:
    spec = ModelSpec(base_resolution=8, memory_writing=writing, memory_response=response, **SMALL)
    generator = GeneratorNetwork(spec)
    output = run(generator)
    (output.images[-1].square().mean() + output.condition.mean.sum()).backward()
    # The image heads of the first two stages see no loss here.
    untrained = [name for name, p in generator.named_parameters() if p.grad is None and "to_image" not in name]
    assert untrained == []


@pytest.mark.parametrize("base", [8, 16, 64])
def test_discriminators_lead_every_resolution_to_the_same_features(base) -> None:
    spec = ModelSpec(base_resolution=base, **SMALL)
    for discriminator, side in zip(build_discriminators(spec, 2), spec.resolutions, strict=True):
        features = discriminator(torch.randn(3, 3, side, side))
        assert features.shape == (3, 16, 4, 4)
        assert discriminator.unconditional_logits(features).shape == (3,)
        assert discriminator.conditional_logits(features, torch.randn(3, 8)).shape == (3,)


def test_every_convolution_of_a_discriminator_is_spectrally_normalised() -> None:
    discriminator = build_discriminators(ModelSpec(base_resolution=8, **SMALL), 2)[2]
    for _ in range(30):  # the power iteration converges over forward passes
        discriminator.conditional_logits(discriminator(torch.randn(2, 3, 32, 32)), torch.randn(2, 8))
        discriminator.unconditional_logits(discriminator(torch.randn(2, 3, 32, 32)))
    convolutions = [module for module in discriminator.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) == 3 + 3
    for convolution in convolutions:
        norm = torch.linalg.matrix_norm(convolution.weight.detach().flatten(1), 2)
        assert float(norm) == pytest.approx(1.0, abs=0.02)
