"""The discriminators' layers, which are the published code's, and their spectral norm."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.parametrizations import spectral_norm
from torch.overrides import TorchFunctionMode

from dmgan_train.models.discriminator import Discriminator


def test_the_norm_is_computed_in_fp32_under_autocast() -> None:
    """On a CPU autocast leaves it alone; that it is off there is what a GPU needs."""
    discriminator = Discriminator(8, 2, 4)
    seen: list[bool] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function in (torch.mv, torch.vdot):  # the power iteration, and the norm
                seen.append(torch.is_autocast_enabled("cpu"))
            return function(*args, **(kwargs or {}))

    with torch.autocast("cpu", dtype=torch.bfloat16), Watch():
        features = discriminator(torch.zeros(2, 3, 8, 8))
    assert features.dtype == torch.bfloat16
    assert seen
    assert not any(seen)


def test_it_is_pytorchs_own() -> None:
    torch.manual_seed(0)
    ours = Discriminator(16, 2, 4)
    layer = ours.features[0]
    plain = torch.nn.Conv2d(3, layer.out_channels, 4, 2, 1)
    plain.weight = torch.nn.Parameter(layer.parametrizations.weight.original.detach().clone())
    spectral_norm(plain)
    plain.parametrizations.weight[0].load_state_dict(layer.parametrizations.weight[0].state_dict())
    for _ in range(3):
        torch.testing.assert_close(layer.weight, plain.weight, rtol=0, atol=0)


_DOWN_64 = [(3, 32, 4, 2), (32, 64, 4, 2), (64, 128, 4, 2), (128, 256, 4, 2)]


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (64, _DOWN_64),
        (128, [*_DOWN_64, (256, 512, 4, 2), (512, 256, 3, 1)]),
        (256, [*_DOWN_64, (256, 512, 4, 2), (512, 1024, 4, 2), (1024, 512, 3, 1), (512, 256, 3, 1)]),
    ],
)
def test_at_the_papers_size_the_layers_are_the_published_codes(side: int, expected: list[tuple[int, ...]]) -> None:
    discriminator = Discriminator(side, 32, 256)
    found = [
        (each.in_channels, each.out_channels, each.kernel_size[0], each.stride[0])
        for each in discriminator.features
        if isinstance(each, torch.nn.Conv2d)
    ]
    assert found == expected
    (joint,) = (each for each in discriminator.joint if isinstance(each, torch.nn.Conv2d))
    assert (joint.in_channels, joint.out_channels, joint.kernel_size) == (256 + 256, 256, (3, 3))
    slopes = {each.negative_slope for each in discriminator.modules() if isinstance(each, torch.nn.LeakyReLU)}
    assert slopes == {0.2}
