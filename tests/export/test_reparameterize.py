"""Every rewrite alone, and all together, is the same function."""

import copy
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dmgan_runtime.manifest import ModelSpec, UpBlocks
from dmgan_train.models import GeneratorNetwork
from dmgan_train.models.layers import ResidualBlock, UpBlock
from export.reparameterize import (
    MergedResidualBlock,
    PhasedUpBlock,
    TransposedUpBlock,
    fold_batch_norms,
    reparameterize,
)

WORDS = 5
widths, sides, seeds = st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31)
quick = settings(max_examples=10, deadline=None, derandomize=True)


@pytest.fixture(autouse=True, scope="module")
def _float64() -> Iterator[None]:
    """In which rounding hides nothing."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trained(module: nn.Module, seed: int) -> nn.Module:
    """In evaluation mode, with BatchNorms that have seen something."""
    random = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for values in (layer.weight, layer.running_var):
                values.data.uniform_(0.5, 1.5, generator=random)
            for values in (layer.bias, layer.running_mean):
                values.data.uniform_(-1, 1, generator=random)
    return module.eval()


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    scale = max(1.0, float(expected.abs().max()))
    assert float((actual - expected).abs().max()) <= 1e-10 * scale


@pytest.mark.parametrize("form", [TransposedUpBlock, PhasedUpBlock])
@quick
@given(widths, widths, sides, sides, seeds)
def test_a_decomposed_up_block_is_the_same(form, channels, out, height, width, seed) -> None:
    torch.manual_seed(seed)
    block, features = trained(UpBlock(channels, out), seed), torch.randn(2, channels, height, width)
    with torch.inference_mode():
        assert_same(form(block).eval()(features), block(features))


@quick
@given(widths, sides, seeds)
def test_a_merged_residual_block_is_the_same(channels, side, seed) -> None:
    torch.manual_seed(seed)
    block, response = trained(ResidualBlock(2 * channels), seed), torch.randn(2, channels, side, side)
    with torch.inference_mode():
        assert_same(MergedResidualBlock(block).eval()(response), block(torch.cat([response, response], dim=1)))


specs = st.builds(
    ModelSpec,
    stages=st.integers(1, 3),
    base_resolution=st.just(8),
    generator_channels=st.integers(1, 6),
    text_features=st.sampled_from([2, 6]),
    embedding_features=st.just(4),
    noise_features=st.integers(1, 5),
    condition_features=st.integers(1, 5),
    memory_features=st.integers(1, 6),
    residual_blocks=st.integers(1, 3),
    memory_writing=st.just("gated"),
    memory_response=st.sampled_from(["gated", "concatenation"]),
)


def images_and_memories(generator: GeneratorNetwork, spec: ModelSpec) -> list[torch.Tensor]:
    torch.manual_seed(1)
    text = torch.randn(3, spec.text_features), torch.randn(3, spec.text_features, WORDS), torch.tensor([1, WORDS, 2])
    with torch.inference_mode():
        output = generator(*text, torch.randn(3, spec.noise_features), torch.randn(3, spec.condition_features))
    memories = [value for memory in output.memories for value in memory[1:] if value is not None]
    return [*output.images, *memories]


def assert_same_function(actual: GeneratorNetwork, expected: GeneratorNetwork, spec: ModelSpec) -> None:
    for ours, theirs in zip(images_and_memories(actual, spec), images_and_memories(expected, spec), strict=True):
        assert_same(ours, theirs)


@quick
@given(specs, seeds)
def test_folded_batch_norms_are_the_same(spec, seed) -> None:
    torch.manual_seed(seed)
    generator = trained(GeneratorNetwork(spec), seed)
    folded = fold_batch_norms(copy.deepcopy(generator))
    assert not any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in folded.modules())
    assert_same_function(folded, generator, spec)


@pytest.mark.parametrize("form", get_args(UpBlocks))
@quick
@given(specs, seeds)
def test_all_rewrites_together_are_the_same(form, spec, seed) -> None:
    torch.manual_seed(seed)
    generator = trained(GeneratorNetwork(spec), seed)
    assert_same_function(reparameterize(generator, form), generator, spec)


def test_the_generator_itself_is_left_alone() -> None:
    spec = ModelSpec(base_resolution=8, generator_channels=4, residual_blocks=1)
    generator = trained(GeneratorNetwork(spec), 0)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    reparameterize(generator, "phases")
    assert all(torch.equal(before[name], value) for name, value in generator.state_dict().items())
    assert generator.refinements[0].memory.response_copies == 2
