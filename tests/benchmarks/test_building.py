"""A model is made once, counted exactly, and as lively as a trained one."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import building
from benchmarks.building import count_as_written, count_exported, prepare_model, random_captions, random_model
from benchmarks.contender import AS_WRITTEN
from dmgan_runtime.errors import DataError, ExportError
from export.sources import read_model
from tests.bundles import build_bundle


def test_a_bundles_graphs_are_counted_by_hand(tmp_path) -> None:
    counts = count_exported(build_bundle(tmp_path / "toy"))
    product, convolution = 11 * (4 * 8 * 8), (8 * 8) * 4 * 3  # [1, 11] by [11, 256], and 4 to 3 channels at 8x8
    assert counts == {"fp32": counts["fp32"]}
    assert counts["fp32"]["text_encoder"] == 0
    assert counts["fp32"]["generator_0"] == 2 * (product + convolution)


def test_the_network_as_written_has_the_operations_of_its_layers(run) -> None:
    model = read_model(run, "squares", "-")
    counts, layers = count_as_written(model), 0

    def count(layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal layers
        layers += 2 * output.numel() * math.prod(layer.weight.shape[1:])

    generator = model.generator
    hooks = [m.register_forward_hook(count) for m in generator.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    spec, words = generator.spec, model.max_words
    noise = torch.zeros(1, spec.noise_features), torch.zeros(1, spec.condition_features)
    text = torch.zeros(1, spec.text_features), torch.zeros(1, spec.text_features, words), torch.tensor([words])
    generator(*text, *noise, 1)
    for hook in hooks:
        hook.remove()
    assert list(counts) == list(spec.roles)
    assert counts["generator_0"] == layers
    assert counts["generator_0"] < counts["generator_1"] < counts["generator_2"]


@pytest.fixture
def here(monkeypatch, bundle) -> list[object]:
    """No processes, and an export that takes no time and refuses int8; the calls of it."""
    calls: list[object] = []

    def write(model, destination, report, precisions, up_blocks) -> None:
        calls.append(precisions)
        if precisions:
            raise ExportError("int8 would spoil the image")
        shutil.copytree(bundle, destination)

    monkeypatch.setattr(building, "write_bundle", write)
    monkeypatch.setattr(building, "call_in_worker", lambda function, *arguments: function(*arguments))
    return calls


def test_a_model_is_exported_once_and_then_kept(run, here, tmp_path) -> None:
    made = [prepare_model("tiny", run.root, None, tmp_path, "cpu") for _ in range(2)]
    assert here == [["int8"], ()]
    assert made[0] == made[1]
    assert made[0].lacks == {"int8": "int8 would spoil the image"}
    assert made[0].operations.keys() == {AS_WRITTEN, "fp32"}
    assert list(Path(made[0].bundle).glob("engines/*mnn*"))
    entry = made[0].describe()
    assert (entry.name, entry.weights) == (run.root.name, "trained")
    assert entry.manifest_sha256


def test_another_bundle_is_another_model(run, bundle, here, tmp_path) -> None:
    model = prepare_model("tiny", run.root, bundle, tmp_path, "cpu")
    assert model.bundle == str(bundle)
    assert here == []
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    assert prepare_model("tiny", run.root, other, tmp_path, "cpu").bundle == str(other)


def test_what_is_no_bundle_is_refused(run, tmp_path) -> None:
    with pytest.raises(DataError, match="is no bundle's folder"):
        prepare_model("tiny", run.root, tmp_path, tmp_path, "cpu")


def test_random_weights_have_the_signals_of_trained_ones() -> None:
    model = random_model("tiny")
    with torch.inference_mode():
        text = model.text_encoder(torch.ones(2, 20, dtype=torch.int64), torch.tensor([20, 3]))
        spec = model.generator.spec
        noise = torch.randn(2, spec.noise_features), torch.randn(2, spec.condition_features)
        images = model.generator(text.sentence, text.words, torch.tensor([20, 3]), *noise).images
    assert all(0.2 < image.std() < 0.9 for image in images)


def test_random_captions_are_of_many_lengths_and_known_words() -> None:
    captions = random_captions(18)
    assert {len(caption.split()) for caption in captions} == set(range(6, 19))
    tokenizer = building.random_tokenizer()
    assert not any(tokenizer.encode(caption, 18).unknown for caption in captions)
