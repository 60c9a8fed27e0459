import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmgan_train.models.layers import UpBlock


@settings(deadline=None, max_examples=20)
@given(channels=st.integers(1, 9), out=st.integers(1, 9), height=st.integers(5, 11), width=st.integers(1, 9))
def test_training_computes_what_the_layers_say(channels, out, height, width) -> None:
    torch.manual_seed(0)
    block = UpBlock(channels, out).double().train()
    features = torch.randn(3, channels, height, width, dtype=torch.float64, requires_grad=True)
    upsample, convolution, norm, glu = block
    fast, written = block(features), glu(norm(convolution(upsample(features))))
    torch.testing.assert_close(fast, written)
    inputs = [features, convolution.weight]
    for one, other in zip(
        torch.autograd.grad(fast.square().sum(), inputs),
        torch.autograd.grad(written.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
