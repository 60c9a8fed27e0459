import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmgan_train.augmentation import augment


@settings(deadline=None, max_examples=20)
@given(side=st.sampled_from([8, 16, 32]), seed=st.integers(0, 1000))
def test_shape_stays_and_gradients_flow(side, seed) -> None:
    torch.manual_seed(seed)
    images = torch.rand(3, 3, side, side, requires_grad=True)
    (seen,) = augment(images)
    assert seen.shape == images.shape
    seen.square().sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert images.grad.abs().sum() > 0


def test_a_white_border_stays_free_of_black_bars() -> None:
    """Only brightness and contrast may move a uniform picture; shifting may not bring anything else in."""
    torch.manual_seed(0)
    for image in augment(torch.ones(16, 3, 16, 16))[0]:
        assert image.max() - image.min() < 1e-5


def test_each_image_is_varied_on_its_own() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 16, 16)
    (seen,) = augment(image.expand(4, -1, -1, -1))
    assert all(not torch.equal(seen[0], other) for other in seen[1:])


def test_batches_are_varied_alike() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 16, 16)
    first, second = augment(images, images.clone())
    assert torch.equal(first, second)
