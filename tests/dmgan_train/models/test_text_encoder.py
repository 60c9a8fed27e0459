import torch

from dmgan_runtime.manifest import ModelSpec
from dmgan_train.models import TextEncoder


@torch.no_grad()
def test_order_and_neighbours_do_not_matter() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(20, ModelSpec(text_features=8, embedding_features=6)).eval()
    tokens, lengths = torch.randint(1, 20, (3, 7)), torch.tensor([2, 7, 4])
    together = encoder(tokens, lengths)
    for row in range(3):
        alone = encoder(tokens[row : row + 1], lengths[row : row + 1])
        torch.testing.assert_close(together.words[row], alone.words[0])
        torch.testing.assert_close(together.sentence[row], alone.sentence[0])
        assert together.words[row, :, lengths[row] :].abs().sum() == 0


@torch.no_grad()
def test_the_sentence_is_the_last_state_of_both_directions() -> None:
    encoder = TextEncoder(20, ModelSpec(text_features=8, embedding_features=6)).eval()
    text = encoder(torch.tensor([[3, 1, 2, 0]]), torch.tensor([3]))
    torch.testing.assert_close(text.sentence[0], torch.cat([text.words[0, :4, 2], text.words[0, 4:, 0]]))
