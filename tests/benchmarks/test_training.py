"""A training step is timed by known loops, and the plain loop is the same training in another order of work."""

import copy

import pytest
import torch

from benchmarks.cli import take
from benchmarks.contender import select
from benchmarks.measure import Task
from benchmarks.plain_loop import as_published, discriminator_loss, word_similarities
from benchmarks.report import render
from benchmarks.training import (
    Loop,
    Networks,
    Training,
    find_loops,
    make_phase,
    make_plain_loop,
    published_settings,
    random_batch,
)
from benchmarks.turns import Limits
from dmgan_train import losses
from dmgan_train.settings import Settings
from tests.benchmarks.fakes import KnownLoop, KnownNetworks, environment
from tests.training import CPU, SMALL


@pytest.fixture(scope="module")
def settings() -> Settings:
    return published_settings("tiny", overrides=SMALL)


def test_images_a_second_are_those_of_a_batch_over_its_time() -> None:
    loops = [KnownLoop(engine="plain", seconds=2.0), KnownLoop(engine="dmgan", seconds=0.5)]
    result = take(Training(Limits(2, 100)), Task(KnownNetworks(), loops, lambda _: None), environment())
    assert [series.samples for series in result.series] == [(2.0, 2.0), (8.0, 8.0)]
    assert {series.batch for series in result.series} == {4}
    assert "| Dmgan | fp32 | 8.00 | 4.00 (4.00 to 4.00) |" in render(result)


@pytest.mark.parametrize("engine", ["plain", "dmgan"])
def test_a_loop_trains_and_tells_its_seconds(engine, settings) -> None:
    trainer = Loop("fp32", "cpu", 1, engine).open(Networks("tiny", settings))
    assert trainer.time() > 0
    assert trainer.version() == torch.__version__


def test_the_task_has_the_batch_and_the_published_objective() -> None:
    task = Training.prepare("cpu", 1, ["dmgan-fp32"], preset="tiny", batch=3)
    assert [loop.name for loop in task.contenders] == ["plain-fp32", "dmgan-fp32"]
    gan = task.model.settings.gan
    assert (gan.batch_size, gan.augmentation, gan.r1_weight, sum(gan.warm_up_steps)) == (3, False, 0, 0)


def test_the_plain_loop_comes_first_and_ours_in_every_precision() -> None:
    assert find_loops("cpu", 1)[0].name == "plain-fp32"
    names = {loop.name for loop in find_loops("cuda:0", 1)}
    assert {"plain-tf32", "dmgan-bf16", "dmgan-compile-bf16"} <= names
    assert "plain-bf16" not in names
    assert len(select(find_loops("cuda:0", 1), [])) == len(names)


def test_real_and_fake_one_after_the_other_are_the_same_loss(settings) -> None:
    torch.manual_seed(0)
    discriminator = make_plain_loop(settings, CPU).discriminators[0].eval()
    real, fake = torch.rand(2, 3, 3, 8, 8)
    sentence = torch.randn(3, settings.model.text_features)
    expected = losses.discriminator_loss(discriminator, real, fake, sentence).total
    torch.testing.assert_close(discriminator_loss(discriminator, real, fake, sentence), expected)


def test_caption_by_caption_is_the_same_similarity() -> None:
    torch.manual_seed(0)
    regions, words, lengths = torch.randn(3, 8, 2, 2), torch.randn(3, 8, 6), torch.tensor([6, 2, 4])
    expected = losses.word_similarities(regions, words, lengths, gamma1=4.0, gamma2=5.0)
    torch.testing.assert_close(word_similarities(regions, words, lengths, 4.0, 5.0), expected)


def test_the_published_up_blocks_are_the_same_function(settings) -> None:
    torch.manual_seed(0)
    ours = make_phase(settings, CPU).generator.train()
    theirs = as_published(copy.deepcopy(ours))
    torch.manual_seed(1)
    spec = settings.model
    text, words = torch.randn(4, spec.text_features), torch.randn(4, spec.text_features, 6)
    lengths = torch.tensor([6, 1, 3, 2])
    noise, condition_noise = torch.randn(4, spec.noise_features), torch.randn(4, spec.condition_features)
    images = [network(text, words, lengths, noise, condition_noise).images[-1] for network in (ours, theirs)]
    torch.testing.assert_close(images[0], images[1], rtol=1e-4, atol=1e-4)


def test_a_step_has_the_losses_of_ours_and_trains_everything(settings) -> None:
    phase, plain = make_phase(settings, CPU), make_plain_loop(settings, CPU)
    plain.generator.load_state_dict(phase.generator.state_dict())
    plain.discriminators.load_state_dict(phase.discriminators.state_dict())
    plain.text_encoder, plain.image_encoder = phase.text_encoder, phase.image_encoder
    before = [value.detach().clone() for value in (*plain.generator.parameters(), *plain.discriminators.parameters())]
    batch, found = random_batch(settings), []
    for loop in (phase, plain):
        torch.manual_seed(3)
        found.append({name: value.item() for name, value in loop.step(batch, 0).items()})
    ours, theirs = found
    # Spectral norm estimates anew in every pass, of which the two have different numbers.
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=0.1)
    after = (*plain.generator.parameters(), *plain.discriminators.parameters())
    changed = [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    moved = zip(plain.average, before, strict=False)
    assert any(not torch.equal(average, old) for average, old in moved)
