import pytest
import torch

from dmgan_train.losses import conditioning_loss
from tests import golden_data


def test_equals_the_published_one() -> None:
    golden = golden_data.load("damsm_losses.npz")
    assert float(conditioning_loss(golden["mu"], golden["logvar"])) == pytest.approx(float(golden["kl"]), abs=1e-4)


def test_equals_torch_distributions() -> None:
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    gaussian = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    expected = torch.distributions.kl_divergence(gaussian, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(conditioning_loss(mean, log_variance), expected)
