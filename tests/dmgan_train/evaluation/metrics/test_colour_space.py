import pytest
import torch

from dmgan_train.evaluation.metrics.colour_space import lab_pixels, to_lab


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((255, 255, 255), (100, 0, 0)),
        ((119, 119, 119), (50.03, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_known_colours(rgb, lab) -> None:
    pixel = torch.tensor(rgb, dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert to_lab(pixel).flatten().tolist() == pytest.approx(lab, abs=0.03)


def test_pictures_become_sixteen_by_sixteen() -> None:
    image = torch.full((2, 3, 64, 64), 255, dtype=torch.uint8)
    image[1, :, :, :32] = 0
    vectors = lab_pixels(image)
    assert vectors.shape == (2, 3 * 16 * 16)
    assert vectors[1].reshape(3, 16, 16)[0, 3, 6:10].tolist() == pytest.approx([0, 0, 100, 100], abs=0.01)
