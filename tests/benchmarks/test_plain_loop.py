"""The plain loop is the same training in another order of work: else it would be no comparison."""

import copy

import pytest
import torch

from benchmarks.plain_loop import as_published, discriminator_loss, word_similarities
from benchmarks.trainer import make_phase, make_plain_loop, published_settings, random_batch
from benchmarks.training_step import Loop, loops
from dmgan_train import losses
from dmgan_train.settings import Settings
from tests.training import SMALL

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def settings() -> Settings:
    return published_settings("tiny", Loop(order="plain", precision="fp32"), overrides=SMALL)


def test_real_and_fake_one_after_the_other_are_the_same_loss(settings) -> None:
    torch.manual_seed(0)
    judge = make_plain_loop(settings, CPU).discriminators[0].eval()
    real, fake = torch.rand(2, 3, 3, 8, 8)
    sentence = torch.randn(3, settings.model.text_features)
    expected = losses.discriminator_loss(judge, real, fake, sentence).total
    torch.testing.assert_close(discriminator_loss(judge, real, fake, sentence), expected)


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


def test_the_plain_loop_comes_first_and_ours_in_every_precision() -> None:
    assert loops("cpu")[0].name == "plain-fp32"
    assert {"plain-tf32", "dmgan-bf16", "dmgan-compile-bf16"} <= {loop.name for loop in loops("cuda:0")}
    assert "plain-bf16" not in {loop.name for loop in loops("cuda:0")}
