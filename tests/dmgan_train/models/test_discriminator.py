"""The discriminators' spectral norm."""

from __future__ import annotations

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
