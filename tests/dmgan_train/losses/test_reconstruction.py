import pytest
import torch

from dmgan_train.losses import perceptual_loss, reconstruction_loss


def test_stages_count_alike_whatever_their_size() -> None:
    targets = [torch.zeros(2, 3, side, side) for side in (4, 8, 16)]
    images = [target.clone() for target in targets]
    images[0] += 0.3
    assert reconstruction_loss(images, targets).item() == pytest.approx(0.1)
    assert reconstruction_loss(targets, targets).item() == 0


def test_fewer_stages_may_be_compared() -> None:
    image, target = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), -0.5)
    assert reconstruction_loss([image], [target]).item() == pytest.approx(1)


def test_only_the_direction_of_features_counts() -> None:
    features = torch.randn(2, 5, 3, 3), torch.randn(2, 7)
    scaled = [3 * value for value in features]
    assert perceptual_loss(features, scaled).item() == pytest.approx(0, abs=1e-6)
    assert perceptual_loss(features, [-value for value in features]).item() == pytest.approx(2)


def test_stages_that_do_not_match_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        reconstruction_loss([torch.zeros(1, 3, 4, 4)], [])
