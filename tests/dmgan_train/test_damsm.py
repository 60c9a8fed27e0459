"""What the captions of an image's own class are to the DAMSM loss."""

from dataclasses import replace

import pytest
import torch

from dmgan_runtime.errors import SettingsError
from dmgan_train.damsm import DamsmPhase
from dmgan_train.fit import read_data
from tests.dmgan_train.losses.test_contrastive import by_hand
from tests.training import damsm_phase_of, phase_of, small_settings


def one_class(split):
    return replace(split, examples=tuple(replace(example, class_id=7) for example in split.examples))


def damsm_phase(images, *overrides: str) -> DamsmPhase:
    settings = small_settings(*overrides)
    data = read_data(images, None, settings)
    return DamsmPhase(settings, one_class(data.train), data.tokenizer, torch.device("cpu"), workers=0)


@pytest.mark.parametrize(("mask_class", "counted"), [("true", False), ("false", True)])
def test_captions_of_the_own_class_are_wrong_only_if_they_are_not_masked(images, mask_class, counted) -> None:
    phase = damsm_phase(images, f"damsm.mask_class={mask_class}")
    losses = phase.step(next(phase.batches(0)), 0)
    assert (losses["word_loss"] > 0) == (losses["sentence_loss"] > 0) == counted


@pytest.mark.parametrize(("mask_class", "counted"), [("true", False), ("false", True)])
def test_the_generator_is_told_the_same(run, images, mask_class, counted) -> None:
    phase = phase_of(run, images, f"damsm.mask_class={mask_class}")
    batch = next(phase.batches(0))
    losses = phase.step(batch._replace(class_ids=torch.full_like(batch.class_ids, 7)), 0)
    assert (losses["damsm"] > 0) == counted


def test_batches_are_drawn_class_by_class_if_classes_are_not_masked(images) -> None:
    settings = small_settings("damsm.mask_class=false", "damsm.batch_size=4")
    data = read_data(images, None, settings)
    pairs = replace(
        data.train,
        examples=tuple(replace(example, class_id=index % 4) for index, example in enumerate(data.train.examples)),
    )
    phase = DamsmPhase(settings, pairs, data.tokenizer, torch.device("cpu"), workers=0)
    classes = next(phase.batches(0)).class_ids
    assert len(classes.unique()) == -(-4 // (len(pairs) // 4))


def test_the_trunk_alone_is_computed_in_half_precision(images, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    losses, seen = [], []
    for precision in ("fp32", "bf16"):
        phase = damsm_phase(images, "damsm.mask_class=false", f"damsm.precision={precision}", "damsm.dropout=0")
        extract, project = phase.image_encoder.extract_features, phase.image_encoder.project
        phase.image_encoder.extract_features = lambda images, extract=extract: seen.append(extract(images)) or seen[-1]
        phase.image_encoder.project = lambda *parts, project=project: seen.append(parts) or project(*parts)
        losses.append(phase.step(next(phase.batches(0)), 0)["word_loss"].item())
    assert [part[0].dtype for part in seen] == [torch.float32] * 2 + [torch.bfloat16, torch.float32]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


def test_two_captions_are_compared_with_the_picture_and_with_each_other(images) -> None:
    batch = next(damsm_phase_of(images, "damsm.contrastive_weight=1").batches(0))
    alone = batch._replace(second=None)
    other = alone._replace(tokens=batch.second.tokens, lengths=batch.second.lengths)
    assert not torch.equal(batch.tokens, other.tokens)
    measured, features = [], []
    for weight, one in ((2, batch), (0, alone), (0, other)):
        phase = damsm_phase_of(images, f"damsm.contrastive_weight={weight}", "damsm.dropout=0")
        features.append(phase.text_encoder(one.tokens, one.lengths).sentence)
        measured.append(phase.step(one, 0))
    both, first, second = measured
    for name in ("word_loss", "sentence_loss"):
        assert both[name].item() == pytest.approx(first[name].item() + second[name].item(), rel=1e-5), name
    assert both["top1"].item() == pytest.approx((first["top1"].item() + second["top1"].item()) / 2)
    assert both["contrastive"].item() == pytest.approx(by_hand(features[1], features[2], 0.5), rel=1e-4)
    assert "contrastive" not in first


def test_the_contrastive_loss_teaches_the_text_encoder(images) -> None:
    phase = damsm_phase_of(images, "damsm.contrastive_weight=1000", "damsm.dropout=0")
    batch = next(phase.batches(0))
    losses = [phase.step(batch, 0)["contrastive"].item() for _ in range(40)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_trunk_that_learns_is_not_computed_in_fp16() -> None:
    with pytest.raises(SettingsError, match=r"damsm\.precision fp16 needs freeze_trunk"):
        small_settings("damsm.precision=fp16")
