"""The second phase's step: what trains when."""

import dataclasses
import multiprocessing
import re
from contextlib import closing

import pytest
import torch
from PIL import Image

from dmgan_runtime.errors import SettingsError
from dmgan_train.checkpoint import load_checkpoint, load_encoders
from dmgan_train.data.pyramid import pyramid
from dmgan_train.fit import read_data
from dmgan_train.gan import GanPhase
from tests.dmgan_train.losses.test_contrastive import by_hand
from tests.training import CPU, phase_of, small_settings, write_images

WARM_UP = ("gan.reconstruction_weight=10", "gan.perceptual_weight=1", "gan.warm_up_steps=[2, 1, 1]")


def changed(phase: GanPhase, step: int) -> set[str]:
    """The parts whose weights a step changes."""
    parts = {
        "initial": phase.generator.initial,
        **{f"refinement {number}": stage for number, stage in enumerate(phase.generator.refinements, start=1)},
        "discriminators": phase.discriminators,
    }
    before = {name: [value.clone() for value in part.parameters()] for name, part in parts.items()}
    phase.step(next(phase.batches(step)), step)
    return {
        name
        for name, part in parts.items()
        if any(not torch.equal(old, new) for old, new in zip(before[name], part.parameters(), strict=True))
    }


def test_what_may_be_broken_in_training_may_be_when_it_is_saved(run, images, monkeypatch) -> None:
    phase = phase_of(run, images, "data.broken_limit=12")
    lacking = dataclasses.replace(
        phase._captions.split, left_out=tuple(f"{line}: an empty caption" for line in range(12))
    )
    monkeypatch.setattr(phase, "_captions", phase._captions._replace(split=lacking))
    phase.step(next(phase.batches(0)), 0)
    assert "generator_ema" in phase.state()


def test_the_warm_up_trains_stage_after_stage_and_then_everything(run, images) -> None:
    phase = phase_of(run, images, *WARM_UP)
    two, three = {"initial", "refinement 1"}, {"initial", "refinement 1", "refinement 2"}
    expected = [{"initial"}, {"initial"}, two, three, three | {"discriminators"}]
    assert [changed(phase, step) for step in range(5)] == expected


def test_pictures_are_as_large_as_the_stages_that_train(run, tmp_path) -> None:
    images = write_images(tmp_path / "squares")
    for path in images.glob("*.png"):
        Image.open(path).resize((32, 32), Image.Resampling.BILINEAR).save(path)
    varied = ("data.augment=flip", "gan.noise_variation=true")
    phase = phase_of(run, images, *WARM_UP, *varied)
    whole = phase_of(run, images, *varied)
    with closing(phase.batches(0)) as batches, closing(whole.batches(0)) as large_ones:
        for side in (8, 8, 16, 32, 32, 32):
            batch, large = next(batches), next(large_ones)
            assert batch.images.shape[-1] == side
            for name in ("indices", "mirrored", "tokens", "lengths", "intervals"):
                assert torch.equal(getattr(batch, name), getattr(large, name)), name
            # As they would be scaled down from the largest, to the last level.
            assert torch.equal(*(pyramid(one.images, one.mirrored, (side,))[0] for one in (batch, large)))
    for step, side in enumerate((8, 8, 16, 32, 32)):
        with closing(phase.batches(step)) as batches:
            assert next(batches).images.shape[-1] == side


def test_a_stage_that_joins_has_readers_of_its_own_and_counts_broken_pictures_on(run, tmp_path, caplog) -> None:
    images = write_images(tmp_path / "squares")
    (images / "0.png").write_bytes(b"broken")
    lengths = ("gan.warm_up_steps=[8, 8, 8]", "gan.steps=30", "gan.epochs=30")
    settings = small_settings("gan.reconstruction_weight=10", *lengths)
    data = read_data(images, None, settings)
    phase = GanPhase(settings, data.train, data.tokenizer, load_encoders(run), None, CPU, workers=1)
    before, readers = set(multiprocessing.active_children()), []
    with closing(phase.batches(0)) as batches:
        for _ in range(24):
            next(batches)
            readers.append(set(multiprocessing.active_children()) - before)
    assert all(len(now) == 1 for now in readers)
    assert [len(set.union(*readers[start : start + 8])) for start in (0, 8, 16)] == [1, 1, 1]
    assert len(set.union(*readers)) == 3
    assert sum("0.png" in record.message for record in caplog.records) == 1
    assert set(multiprocessing.active_children()) == before


def test_a_stage_may_begin_its_warm_up_with_the_weights_of_the_one_before(run, images) -> None:
    phase = phase_of(
        run,
        images,
        "model.stages=4",
        *WARM_UP,
        "gan.warm_up_steps=[1, 1, 0, 2]",
        "gan.warm_up_inherits=true",
        "gan.warm_up_learning_rate=1e-12",
    )
    weights = [[value.clone() for value in each.parameters()] for each in phase.generator.refinements]
    for step in range(2):
        phase.step(next(phase.batches(step)), step)
    assert all(torch.equal(*pair) for pair in zip(weights[1], phase.generator.refinements[1].parameters(), strict=True))
    phase.step(next(phase.batches(2)), 2)
    for generator in (phase.generator, phase.generator_ema.module):
        first, *others = ([value.detach() for value in each.parameters()] for each in generator.refinements)
        for other in others:
            assert all(torch.allclose(*pair, atol=1e-8) for pair in zip(first, other, strict=True))
    changed_one = next(phase.generator.refinements[2].parameters())
    with torch.no_grad():
        changed_one.zero_()
    phase.step(next(phase.batches(3)), 3)
    assert changed_one.abs().max() < 1e-8


@pytest.mark.parametrize("augmentation", [False, True])
def test_the_perceptual_loss_joins_the_warm_up_from_its_size_on(run, images, augmentation) -> None:
    phase = phase_of(
        run, images, *WARM_UP, f"gan.augmentation={augmentation}".lower(), "gan.warm_up_perceptual_from=16"
    )
    judged, extract = [], phase.image_encoder.extract_features

    def watch(images):
        if images.requires_grad:
            judged[-1].add(images.shape[-1])
        return extract(images)

    phase.image_encoder.extract_features = watch
    losses = []
    for step in (0, 2, 3):
        judged.append(set())
        losses.append(phase.step(next(phase.batches(step)), step))
    assert judged == [set(), {16}, {16, 32}]
    assert ["perceptual" in one for one in losses] == [False, True, True]
    assert all(0 < one["perceptual"].item() < 2 * len(sides) for one, sides in zip(losses[1:], judged[1:], strict=True))


@pytest.mark.parametrize(("stages", "warm_up"), [(1, (2,)), (5, (1, 0, 1, 0, 1))])
def test_every_number_of_stages_warms_up_and_trains(run, images, stages, warm_up) -> None:
    phase = phase_of(run, images, f"model.stages={stages}", *WARM_UP, f"gan.warm_up_steps={list(warm_up)}")
    running = [1, 1] if stages == 1 else [1, 3, 5]
    parts = ["initial", *(f"refinement {number}" for number in range(1, stages))]
    expected = [set(parts[:count]) for count in running] + [{*parts, "discriminators"}]
    assert [changed(phase, step) for step in range(len(expected))] == expected


@pytest.mark.parametrize(("stages", "largest"), [(1, 8), (5, 128)])
def test_the_losses_and_gates_follow_the_stages(run, images, stages, largest) -> None:
    phase = phase_of(run, images, f"model.stages={stages}")
    losses = phase.step(next(phase.batches(0)), 0)
    sides = [8 << stage for stage in range(stages)]
    for name in ("discriminator", "generator", "real_accuracy", "mismatched_accuracy"):
        assert {key for key in losses if re.fullmatch(rf"{name}_\d+", key)} == {f"{name}_{side}" for side in sides}
    for name in ("writing_gate", "response_gate"):
        assert {key for key in losses if key.startswith(name)} == {f"{name}_{side}" for side in sides[1:]}
    assert phase.headlines == (f"discriminator_{largest}", f"generator_{largest}", "damsm")


def test_reconstruction_goes_down(run, images) -> None:
    phase = phase_of(
        run, images, "gan.reconstruction_weight=10", "gan.warm_up_steps=[60, 0, 0]", "gan.steps=60", "gan.epochs=30"
    )
    batches = phase.batches(0)
    losses = [phase.step(next(batches), step)["reconstruction"].item() for step in range(60)]
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


def test_each_loss_is_there_only_if_it_has_a_weight(run, images) -> None:
    plain, whole = phase_of(run, images), phase_of(run, images, *WARM_UP)
    names = [set(phase.step(next(phase.batches(10)), step=10)) for phase in (plain, whole)]
    assert names[1] - names[0] == {"reconstruction", "perceptual"}


def test_the_contrastive_loss_is_that_of_the_images_of_two_captions_with_one_noise(run, images) -> None:
    phase = phase_of(run, images, "gan.contrastive_weight=0.2")
    generate, seen = phase.generator.forward, []
    phase.generator.forward = lambda *args, **options: seen.append((args, generate(*args, **options))) or seen[-1][1]
    batch = next(phase.batches(0))
    losses = phase.step(batch, 0)
    (first, first_output), (second, second_output) = seen
    for (tokens, lengths), (sentence, _, used, *_) in (
        ((batch.tokens, batch.lengths), first),
        (batch.second, second),
    ):
        assert torch.equal(lengths, used)
        assert torch.equal(phase.text_encoder(tokens, lengths).sentence, sentence)
    assert not torch.equal(batch.tokens, batch.second.tokens)
    assert torch.equal(first[3], second[3])
    assert not torch.equal(first[4], second[4])
    features = [phase.image_encoder(output.images[-1]).image for output in (first_output, second_output)]
    assert losses["contrastive"].item() == pytest.approx(by_hand(*features, 0.5), rel=1e-4)


def test_the_other_losses_are_those_of_both_captions_together(run, images, monkeypatch) -> None:
    monkeypatch.setattr(torch, "randn", lambda *size, device: torch.zeros(size, device=device))
    every = ("gan.reconstruction_weight=10", "gan.perceptual_weight=1", "gan.r1_weight=1")
    batch = next(phase_of(run, images, "gan.contrastive_weight=0.2").batches(0))
    alone = batch._replace(second=None)
    other = alone._replace(tokens=batch.second.tokens, lengths=batch.second.lengths)
    both, first, second = (
        phase_of(run, images, *every, f"gan.contrastive_weight={weight}").step(one, 0)
        for weight, one in ((0.2, batch), (0, alone), (0, other))
    )
    for name in ("damsm", "conditioning", "reconstruction", "perceptual"):
        assert both[name].item() == pytest.approx(first[name].item() + second[name].item(), rel=1e-5), name
    for name in ("discriminator_8", "discriminator_32", "r1_8"):  # spectral norm goes on between the two
        assert both[name].item() == pytest.approx(first[name].item() + second[name].item(), rel=1e-2), name
    for name in ("writing_gate_16", "response_gate_32"):
        assert both[name].item() == pytest.approx((first[name].item() + second[name].item()) / 2, rel=1e-5), name


def test_the_contrastive_loss_teaches_the_generator(run, images) -> None:
    gradients = []
    for weight in (1e-6, 1e5):
        phase = phase_of(run, images, f"gan.contrastive_weight={weight}")
        torch.manual_seed(0)
        gradients.append(float(phase.step(next(phase.batches(0)), 0)["generator_gradient"]))
    assert gradients[1] > 20 * gradients[0]


def test_the_warm_up_takes_one_caption(run, images) -> None:
    """Its steps are equal to the bit to those without the contrastive loss."""
    weights = []
    for weight in (0, 0.2):
        phase = phase_of(run, images, *WARM_UP, f"gan.contrastive_weight={weight}")
        torch.manual_seed(0)
        assert "contrastive" not in phase.step(next(phase.batches(0)), 0)
        weights.append(phase.generator.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_the_contrastive_loss_and_noise_of_pictures_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match=r"contrastive_weight has one noise .* unset one; at `gan`"):
        small_settings("gan.contrastive_weight=0.2", "gan.noise_variation=true")


def test_the_encoder_sees_images_as_they_are(run, images) -> None:
    """Recoloured, a bird would be judged by colours that its caption does not name."""
    losses = []
    for augmented in ("false", "true"):
        phase = phase_of(run, images, f"gan.augmentation={augmented}", "gan.perceptual_weight=1")
        batch = next(phase.batches(0))
        torch.manual_seed(0)
        losses.append({name: value.item() for name, value in phase.step(batch, 0).items()})
    assert losses[0]["damsm"] == pytest.approx(losses[1]["damsm"], rel=1e-6)
    assert losses[0]["perceptual"] != pytest.approx(losses[1]["perceptual"], rel=1e-3)
    assert losses[0]["generator_32"] != pytest.approx(losses[1]["generator_32"], rel=1e-3)


def test_a_run_that_ends_in_its_warm_up_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"steps is 6, and warm_up_steps and decay_steps take 7"):
        small_settings(*WARM_UP, "gan.decay_steps=3", "gan.steps=6")


def test_data_that_are_too_few_for_the_warm_up_are_refused(run, images) -> None:
    with pytest.raises(
        SettingsError, match=r"gan.epochs is 3, which is 6 steps of these data, and .* take 7; .*epochs"
    ):
        phase_of(run, images, *WARM_UP, "gan.decay_steps=3", "gan.steps=null", "gan.epochs=3")


def test_a_perceptual_warm_up_without_its_loss_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"set perceptual_weight above 0"):
        small_settings("gan.warm_up_perceptual_from=16")


def test_a_warm_up_without_reconstruction_is_refused() -> None:
    with pytest.raises(SettingsError, match="set reconstruction_weight above 0"):
        small_settings("gan.warm_up_steps=[1, 0, 0]")


def test_the_optimizers_take_the_rates_of_the_step(run, images) -> None:
    phase = phase_of(run, images, "gan.steps=10", "gan.decay_steps=4", "gan.generator_learning_rate=0.5")
    batch = next(phase.batches(0))
    rates = []
    for step in (0, 8):
        phase.step(batch, step)
        optimizers = [phase.state()[f"{who}_optimizer"] for who in ("generator", "discriminator")]
        rates.append([optimizer["param_groups"][0]["lr"] for optimizer in optimizers])
    assert rates[0][0] == 0.5
    assert rates[1] == [rate / 2 for rate in rates[0]]


def test_captions_are_kept_for_calibration(run) -> None:
    captions = run.captions()
    assert len(captions) == 8
    assert set(captions) == {f"a {colour} square on white" for colour in ("red", "green")}


def test_the_average_has_its_own_batch_norm_statistics(run, images) -> None:
    """At a high rate the averaged weights lie far inside those of the steps, and so do their activations."""
    phase = phase_of(run, images, "gan.ema=0.9", "gan.generator_learning_rate=0.05")
    batches = phase.batches(0)
    for step in range(10):
        torch.manual_seed(step)
        phase.step(next(batches), step)
    average = phase.generator_ema.module
    name = "initial.project.1.running_var"
    of_the_steps = average.state_dict()[name].clone()
    state = phase.state()
    assert not average.training
    own = state["generator_ema"][f"module.{name}"]
    assert not torch.allclose(own, of_the_steps, rtol=0.05)
    again = phase.state()["generator_ema"][f"module.{name}"]
    assert torch.equal(own, again)


def test_the_penalty_is_lazy_and_counts(run, images) -> None:
    gradients = {}
    for weight in (0, 100):
        phase = phase_of(run, images, f"gan.r1_weight={weight}", "gan.r1_every=2")
        torch.manual_seed(0)
        measured = [phase.step(next(phase.batches(step)), step) for step in range(2)]
        assert ["r1_32" in values for values in measured] == [weight > 0, False]
        gradients[weight] = float(measured[0]["discriminator_gradient"])
    assert gradients[100] > 2 * gradients[0]


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # PyTorch looks, and warns itself
def test_compiled_networks_compute_the_same(run, images, monkeypatch) -> None:
    """Graphs of every network, forward and backward, are run as they were captured; test_gpu.py builds kernels."""
    compile_network = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: compile_network(network, backend="aot_eager"))
    losses = []
    for compiled in ("false", "true"):
        phase = phase_of(run, images, "model.stages=2", f"gan.compile={compiled}")
        torch.manual_seed(0)
        losses.append({name: float(value.detach()) for name, value in phase.step(next(phase.batches(0)), 0).items()})
        assert "initial.project.0.weight" in phase.state()["generator"]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    torch.compiler.reset()


def test_a_checkpoint_in_another_memory_layout_goes_on_the_same(run, images) -> None:
    steps = []
    for layout in (torch.contiguous_format, torch.channels_last):
        phase = phase_of(run, images)
        state = load_checkpoint(run.checkpoint("gan"), "gan")
        for name in ("generator_optimizer", "discriminator_optimizer"):
            for moments in state[name]["state"].values():
                for key, moment in moments.items():
                    if moment.dim() == 4:
                        moments[key] = moment.to(memory_format=layout)
        phase.load_state(state)
        torch.manual_seed(0)
        phase.step(next(phase.batches(4)), 4)
        steps.append(phase.discriminators.state_dict())
    for name, value in steps[0].items():
        assert torch.equal(value, steps[1][name])
