"""The noise that picks the picture: still standard normal, and the same variation for the same noise."""

import itertools

import pytest
import torch

from dmgan_runtime.errors import SettingsError
from dmgan_train.data.pyramid import pyramid
from dmgan_train.losses import reconstruction_loss
from dmgan_train.variation import COMPONENTS, noise_of_pictures, vary
from tests.training import phase_of, small_settings

ON = ("gan.noise_variation=true", "gan.reconstruction_weight=10")


def square(side: int = 32) -> torch.Tensor:
    """A red square on white."""
    images = torch.ones(1, 3, side, side)
    images[:, 1:, side // 4 : -side // 4, side // 4 : -side // 4] = -1
    return images


def noise_at(**components: float) -> torch.Tensor:
    noise = torch.zeros(1, 5)
    for name, value in components.items():
        noise[0, int(name[1:])] = value
    return noise


@pytest.mark.parametrize("cuts", [(0.0, 0.5, 1.0), (0.0, 0.2, 0.3, 1.0)])
def test_over_the_pictures_of_a_caption_the_noise_is_standard_normal(cuts) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for low, high in itertools.pairwise(cuts):
        count = round(100_000 * (high - low))
        noise = torch.randn(count, 5, generator=generator)
        drawn.append(noise_of_pictures(noise, torch.tensor([[low, high]]).expand(count, 2)))
        assert torch.equal(drawn[-1][:, 1:], noise[:, 1:])
    first = torch.cat(drawn)[:, 0]
    expected = torch.special.ndtri(torch.linspace(0.01, 0.99, 99, dtype=torch.float64)).float()
    assert (first.quantile(torch.linspace(0.01, 0.99, 99)) - expected).abs().max() < 0.03
    assert abs(first.mean()) < 0.01
    assert abs(first.std() - 1) < 0.01


def test_each_picture_has_noise_of_its_own() -> None:
    noise = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    halves = torch.tensor([[0.0, 0.5], [0.5, 1.0]], dtype=torch.float64).repeat(500, 1)
    first = noise_of_pictures(noise, halves)[:, 0]
    assert first.isfinite().all()
    assert (first[::2] < 0).all()
    assert (first[1::2] > 0).all()


def test_the_only_picture_of_a_caption_leaves_the_noise_alone() -> None:
    noise = torch.randn(64, 4)
    assert torch.equal(noise_of_pictures(noise, torch.tensor([[0.0, 1.0]]).expand(64, 2)), noise)


def test_noise_of_zero_leaves_the_picture_as_it_is() -> None:
    (varied,) = vary([square()], noise_at())
    assert torch.allclose(varied, square(), atol=1e-4)


@pytest.mark.parametrize("side", [16, 64])
def test_on_the_average_shapes_keep_their_size(side) -> None:
    """Shapes that are smaller by 3% show 6% more of what is around them: dark skin would be learnt as lighter."""
    noise = torch.randn(4000, COMPONENTS, generator=torch.Generator().manual_seed(0))
    noise[:, 3] = 0  # the square's hue is as far out as goes, and another one would be paler
    (varied,) = vary([square(side).expand(4000, -1, -1, -1)], noise)
    red = [(1 - image[:, 1]).flatten(1).sum(1).mean() for image in (square(side), varied)]
    assert red[1] / red[0] == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("component", ["z1", "z2", "z3"])
def test_each_component_varies_smoothly_and_differently(component) -> None:
    picture = square()
    there, near, far, other = (vary([picture], noise_at(**{component: z}))[0] for z in (1.0, 1.01, -1.0, 1.0))
    assert torch.equal(there, other)
    assert (there - near).abs().max() < 0.05
    assert (there - far).abs().mean() > 0.01
    assert there.abs().max() <= 1


def test_the_ground_and_greys_keep_their_colour() -> None:
    grey = torch.full((1, 3, 16, 16), 0.25)
    grey[..., 4:12, 4:12] = -0.5
    (varied,) = vary([grey], torch.full((1, COMPONENTS), 3.0))
    assert torch.allclose(varied[:, :, 0], torch.full((1, 3, 16), 0.25), atol=1e-2)
    assert (varied.amax(1) - varied.amin(1)).max() < 1e-2


def test_every_stage_shows_the_same_variation() -> None:
    small, large = vary([square(32), square(64)], torch.tensor([[0.3, 1.5, -1.0, 2.0]]))
    shrunk = torch.nn.functional.avg_pool2d(large, 2)
    assert (small - shrunk).abs().mean() < 0.03


def test_the_targets_and_what_the_discriminators_see_are_varied_by_the_generators_noise(
    run, images, monkeypatch
) -> None:
    drawn, seen_real, targets = [], [], []

    def compare(fakes, reals):
        targets.append(reals)
        return reconstruction_loss(fakes, reals)

    monkeypatch.setattr("dmgan_train.gan.reconstruction_loss", compare)
    phase = phase_of(run, images, *ON, "gan.warm_up_steps=[1, 0, 0]", "gan.perceptual_weight=1")
    phase.generator.register_forward_pre_hook(lambda _, args: drawn.append(args[3]))
    for discriminator in phase.discriminators:
        discriminator.register_forward_pre_hook(lambda _, args: seen_real.append(args[0]))
    extract, judged = phase.image_encoder.extract_features, []
    phase.image_encoder.extract_features = lambda pictures: judged.append(pictures) or extract(pictures)
    batches = [next(phase.batches(step)) for step in range(2)]
    for step, batch in enumerate(batches):
        phase.step(batch, step)
    sides = (run.settings().model.resolutions[:stages] for stages in (1, 3))
    pyramids = (pyramid(batch.images, batch.mirrored, own) for batch, own in zip(batches, sides, strict=True))
    first, second = (vary(list(images), noise) for images, noise in zip(pyramids, drawn, strict=True))
    assert torch.equal(targets[0][0], first[0])
    assert len(targets[0]) == 1  # the first stage alone is warmed up
    for target, expected, pictures in zip(targets[1], second, seen_real[:3], strict=True):
        assert torch.equal(target, expected)
        assert torch.equal(pictures[: len(expected)], expected)
    assert torch.equal(judged[-1], second[-1])


def test_off_the_noise_and_the_pictures_are_left_alone(run, images, monkeypatch) -> None:
    """The same random draws in the same order, so that the steps of both are equal to the bit."""
    weights, calls = [], []
    for value in ("false", "true"):
        phase = phase_of(run, images, "gan.reconstruction_weight=10", f"gan.noise_variation={value}")
        monkeypatch.setattr("dmgan_train.gan.vary", lambda pyramid, _: calls.append("vary") or list(pyramid))
        monkeypatch.setattr("dmgan_train.gan.noise_of_pictures", lambda noise, _: calls.append("noise") or noise)
        assert not calls
        torch.manual_seed(0)
        phase.step(next(phase.batches(0)), 0)
        weights.append(phase.generator.state_dict())
    assert calls == ["noise", "vary"]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_it_needs_noise_to_read() -> None:
    assert not small_settings().gan.noise_variation
    with pytest.raises(SettingsError, match=r"noise_variation needs model\.noise_features of at least 4"):
        small_settings("gan.noise_variation=true", "model.noise_features=3")
