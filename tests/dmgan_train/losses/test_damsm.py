"""The DAMSM losses equal the published ones, and a plain loop over pairs."""

import pytest
import torch

from dmgan_train.losses import damsm_sentence_loss, damsm_word_loss, word_similarities
from tests import golden_data


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return golden_data.load("damsm_losses.npz")


@pytest.mark.parametrize("masked", [True, False])
def test_word_loss_equals_the_published_one(golden, masked) -> None:
    class_ids = golden["class_ids"] if masked else None
    loss = damsm_word_loss(golden["region_features"], golden["word_features"], golden["lengths"], class_ids)
    suffix = "masked" if masked else "unmasked"
    assert float(loss.image_to_text) == pytest.approx(float(golden[f"word_loss_image_to_text_{suffix}"]), abs=1e-4)
    assert float(loss.text_to_image) == pytest.approx(float(golden[f"word_loss_text_to_image_{suffix}"]), abs=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_sentence_loss_equals_the_published_one(golden, masked) -> None:
    class_ids = golden["class_ids"] if masked else None
    loss = damsm_sentence_loss(golden["global_feature"], golden["sentence_feature"], class_ids)
    suffix = "masked" if masked else "unmasked"
    expected = golden[f"sentence_loss_image_to_text_{suffix}"]
    assert float(loss.image_to_text) == pytest.approx(float(expected), abs=1e-4)
    expected = golden[f"sentence_loss_text_to_image_{suffix}"]
    assert float(loss.text_to_image) == pytest.approx(float(expected), abs=1e-4)


def test_similarities_equal_a_loop_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    regions = torch.randn(3, 8, 4, 4, generator=generator)
    words = torch.randn(2, 8, 5, generator=generator)
    lengths = torch.tensor([5, 2])
    actual = word_similarities(regions, words, lengths, gamma1=4.0, gamma2=5.0)
    for i in range(3):
        for c in range(2):
            v, e = regions[i].flatten(1), words[c, :, : int(lengths[c])]
            attention = torch.softmax(4.0 * torch.softmax(v.T @ e, dim=1), dim=0)
            cosine = torch.cosine_similarity(v @ attention, e, dim=0)
            expected = torch.log(torch.exp(5.0 * cosine).sum())
            torch.testing.assert_close(actual[i, c], expected, atol=1e-5, rtol=0)


def test_what_lies_in_the_padding_changes_nothing(golden) -> None:
    words = golden["word_features"].clone()
    for row, length in enumerate(golden["lengths"]):
        words[row, :, int(length) :] = 123.0
    arguments = (golden["region_features"], words, golden["lengths"], golden["class_ids"])
    loss = damsm_word_loss(*arguments)
    expected = float(golden["word_loss_image_to_text_masked"])
    assert float(loss.image_to_text) == pytest.approx(expected, abs=1e-4)


def test_gradients_are_finite_with_masked_rows() -> None:
    regions = torch.randn(4, 8, 3, 3, requires_grad=True)
    words = torch.randn(4, 8, 5, requires_grad=True)
    loss = damsm_word_loss(regions, words, torch.tensor([5, 1, 3, 2]), torch.tensor([1, 1, 1, 1]))
    loss.total.backward()
    assert regions.grad is not None
    assert words.grad is not None
    assert regions.grad.isfinite().all()
    assert words.grad.isfinite().all()
