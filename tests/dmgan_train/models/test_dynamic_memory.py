"""The memory does what the equations say, in plain loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmgan_runtime.manifest import ModelSpec
from dmgan_train.models import DynamicMemory, valid_words

TINY = {"generator_channels": 4, "text_features": 6, "memory_features": 5}


def build(**changes: object) -> DynamicMemory:
    torch.manual_seed(0)
    return DynamicMemory(ModelSpec(**TINY, **changes)).eval()


def inputs(batch: int = 2, words: int = 3, side: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(batch, 4, side, side, generator=generator)
    return features, torch.randn(batch, 6, words, generator=generator)


def relu_map(layer, vector: torch.Tensor) -> torch.Tensor:
    return torch.relu(layer[0].weight[:, :, 0] @ vector + layer[0].bias)


@torch.no_grad()
def test_gated_memory_equals_the_equations() -> None:
    memory = build()
    features, words = inputs()
    output = memory(features, words, torch.ones(2, 3, dtype=torch.bool))
    for n in range(2):
        mean = features[n].mean(dim=(1, 2))
        slots = []
        for i in range(3):
            gate = torch.sigmoid(memory.word_gate.weight @ words[n, :, i] + memory.image_gate.weight @ mean)  # eq. 7
            torch.testing.assert_close(output.writing_gate[n, i], gate[0])
            written, kept = relu_map(memory.word_memory, words[n, :, i]), relu_map(memory.image_memory, mean)
            slots.append(written * gate + kept * (1 - gate))  # eq. 8
        for y, x in [(0, 0), (3, 1)]:
            pixel = features[n, :, y, x]
            alpha = torch.softmax(torch.stack([relu_map(memory.key, m) @ pixel for m in slots]), dim=0)  # eq. 4
            torch.testing.assert_close(output.attention[n, :, y, x], alpha)
            read = sum(a * relu_map(memory.value, m) for a, m in zip(alpha, slots, strict=True))  # eq. 5
            weight, bias = memory.response_gate.weight[0, :, 0, 0], memory.response_gate.bias
            gate = torch.sigmoid(weight @ torch.cat([pixel, read]) + bias)
            torch.testing.assert_close(output.response_gate[n, 0, y, x], gate[0])
            refined = read * gate + pixel * (1 - gate)  # eq. 9
            torch.testing.assert_close(output.features[n, :, y, x], torch.cat([refined, refined]))


@pytest.mark.parametrize("writing", ["words", "none"])
@torch.no_grad()
def test_concatenation_puts_the_reading_beside_the_pixels(writing) -> None:
    memory = build(memory_writing=writing, memory_response="concatenation")
    features, words = inputs()
    output = memory(features, words, torch.ones(2, 3, dtype=torch.bool))
    keys, values, gate = memory.write(features, words)
    assert gate is None
    assert output.response_gate is None
    read = memory.read(memory.address(features, keys, torch.ones(2, 3, dtype=torch.bool)), values)
    torch.testing.assert_close(output.features, torch.cat([read, features], dim=1))


@torch.no_grad()
def test_without_a_memory_words_are_keys_and_values() -> None:
    memory = build(memory_writing="none", memory_response="concatenation")
    keys, values, _ = memory.write(*inputs())
    assert keys is values
    assert {name for name, _ in memory.named_parameters()} == {"project_words.weight"}


def test_the_writing_gate_does_not_train_the_stage_before() -> None:
    memory = build()
    features, words = inputs()
    features.requires_grad_(True)
    keys, _, _ = memory.write(features, words)
    assert not torch.autograd.grad(keys.sum(), features, allow_unused=True)[0]


@settings(deadline=None, max_examples=30)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), fill=st.floats(-100, 100))
@torch.no_grad()
def test_padding_never_matters(lengths, fill) -> None:
    memory = build()
    features, words = inputs(batch=len(lengths), words=5)
    valid = valid_words(torch.tensor(lengths), 5)
    first = memory(features, words, valid)
    changed = torch.where(valid[:, None, :], words, torch.tensor(fill))
    second = memory(features, changed, valid)
    torch.testing.assert_close(first.features, second.features, atol=1e-6, rtol=0)
    assert (second.attention * ~valid[:, :, None, None]).abs().max() == 0
    torch.testing.assert_close(second.attention.sum(dim=1), torch.ones(len(lengths), 4, 4))


@torch.no_grad()
def test_float64_stays_float64() -> None:
    memory = build().double()
    features, words = (value.double() for value in inputs())
    valid = torch.ones(2, 3, dtype=torch.bool)
    attention = memory.address(features, words[:, :4], valid)
    exact = torch.softmax(torch.einsum("nct,nchw->nthw", words[:, :4], features), dim=1)
    torch.testing.assert_close(attention, exact, rtol=0, atol=1e-14)
