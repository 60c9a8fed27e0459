"""The text encoder of DAMSM (Xu et al., AttnGAN, CVPR 2018), which DM-GAN keeps frozen."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dmgan_runtime.manifest import ModelSpec


class TextEncoderOutput(NamedTuple):
    """What the text encoder says of a batch of captions.

    Attributes:
        words: [N, text_features, T], 0 at padding.
        sentence: [N, text_features].
    """

    words: Tensor
    sentence: Tensor


class TextEncoder(nn.Module):
    """Embedding, dropout and a bidirectional LSTM: a feature for each word and one for the sentence."""

    def __init__(self, vocabulary_size: int, spec: ModelSpec, dropout: float = 0.5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, spec.embedding_features)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(spec.embedding_features, spec.text_features // 2, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tensor, lengths: Tensor) -> TextEncoderOutput:
        """Encodes captions in any order of length.

        Args:
            tokens: [N, T] int64, indices of the vocabulary, padded with 0.
            lengths: [N] int64, from 1 to T.
        """
        embedded = self.dropout(self.embedding(tokens))
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, (hidden, _) = self.lstm(packed)
        words, _ = pad_packed_sequence(outputs, batch_first=True, total_length=tokens.shape[1])
        return TextEncoderOutput(words.transpose(1, 2), hidden.transpose(0, 1).flatten(1))
