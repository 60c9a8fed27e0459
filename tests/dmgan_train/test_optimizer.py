import math

import pytest
import torch
from torch import nn

from dmgan_train.optimizer import ScaledAdam

CPU = torch.device("cpu")


def optimizer_of(network: nn.Module, *, fp16: bool) -> ScaledAdam:
    return ScaledAdam(network, 0.1, (0.5, 0.999), CPU, fp16)


def line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def loss_of(network: nn.Linear) -> torch.Tensor:
    return network(torch.ones(4, 3)).square().mean()


@pytest.mark.parametrize("fp16", [False, True])
def test_it_is_adam_and_tells_the_norm(fp16) -> None:
    ours, plain = line(), line()
    optimizer, adam = optimizer_of(ours, fp16=fp16), torch.optim.Adam(plain.parameters(), lr=0.1, betas=(0.5, 0.999))
    for _ in range(3):
        measured = optimizer.step(loss_of(ours))
        adam.zero_grad()
        loss_of(plain).backward()
        norm = nn.utils.get_total_norm([parameter.grad for parameter in plain.parameters()])
        adam.step()
        assert float(measured["gradient"]) == pytest.approx(float(norm))
        assert measured.get("skipped", 0) == 0
        torch.testing.assert_close(ours.state_dict(), plain.state_dict())


def test_a_gradient_out_of_range_is_skipped_and_the_scale_falls() -> None:
    network = line()
    optimizer = optimizer_of(network, fp16=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    scale = optimizer.state()["scaler"]["scale"]
    measured = optimizer.step(loss_of(network) * float("inf"))
    assert measured == {"gradient": 0, "skipped": 1}
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)
    assert optimizer.state()["scaler"]["scale"] == scale / 2
    assert optimizer.step(loss_of(network))["skipped"] == 0
    assert not torch.equal(network.weight, before["weight"])


def test_small_gradients_of_half_precision_arrive() -> None:
    """2^-26 is nothing in fp16, and scaled it is something."""
    network = nn.Linear(1, 1, bias=False)

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            return network(torch.ones(1, 1)).float().sum() * 2**-26

    assert optimizer_of(network, fp16=False).step(loss())["gradient"] == 0
    assert optimizer_of(network, fp16=True).step(loss())["gradient"] == 2**-26


def test_it_goes_on_from_its_state() -> None:
    weights = []
    for interrupted in (False, True):
        network = line()
        optimizer = optimizer_of(network, fp16=True)
        optimizer.step(loss_of(network) * float("inf"))
        optimizer.step(loss_of(network))
        if interrupted:
            state, optimizer = optimizer.state(), optimizer_of(network, fp16=True)
            optimizer.load_state(state)
        optimizer.step(loss_of(network))
        weights.append((network.weight.detach(), optimizer.state()["scaler"]))
    assert torch.equal(weights[0][0], weights[1][0])
    assert weights[0][1] == weights[1][1]


def test_the_learning_rate_can_be_set() -> None:
    network = line()
    optimizer = optimizer_of(network, fp16=False)
    assert optimizer.learning_rate == 0.1
    before = network.weight.detach().clone()
    optimizer.learning_rate = 0.0
    optimizer.step(loss_of(network))
    assert torch.equal(network.weight, before)


def test_skipping_without_end_is_no_excuse() -> None:
    """The loop stops at a norm that is no number, long before the scale is zero and weights are divided by it."""
    network = line()
    optimizer = optimizer_of(network, fp16=True)
    norms = [float(optimizer.step(loss_of(network) * float("nan"))["gradient"]) for _ in range(45)]
    assert norms[:40] == [0] * 40
    assert not any(math.isfinite(norm) for norm in norms[40:])
    assert optimizer.state()["scaler"]["scale"] > 0
    assert float(optimizer.step(loss_of(network))["gradient"]) > 0
    assert math.isfinite(float(optimizer.step(loss_of(network) * float("nan"))["gradient"]))
