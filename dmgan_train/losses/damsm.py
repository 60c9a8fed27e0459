"""The DAMSM losses (Xu et al., AttnGAN, CVPR 2018, eq. 7 to 13), at word and at sentence level.

Every image is compared with every caption of the batch. Where several processes share it, each holds all captions and
its own images, and what is put together is the small matrix of similarities.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dmgan_train import distributed
from dmgan_train.models import valid_words


class MatchingLoss(NamedTuple):
    """Cross-entropy of finding the caption of an image, and the image of a caption; scalars."""

    image_to_text: Tensor
    text_to_image: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of both directions."""
        return self.image_to_text + self.text_to_image


def damsm_word_loss(
    regions: Tensor,
    words: Tensor,
    lengths: Tensor,
    class_ids: Tensor | None,
    *,
    gamma1: float = 4.0,
    gamma2: float = 5.0,
    gamma3: float = 10.0,
) -> MatchingLoss:
    """The word-level matching loss L_1^w + L_2^w.

    Args:
        regions: [N, D, h, w], of N images; this process's share of them.
        words: [N, D, T], of their N captions, all of them.
        lengths: [N] int64, words of each caption, from 1 to T.
        class_ids: [N] int64; other captions of an image's class do not count as wrong. None: all do.
        gamma1: Sharpness of each word's attention over the regions (eq. 9).
        gamma2: How much the best-matching words count (eq. 10).
        gamma3: Sharpness of the softmax over the batch (eq. 11).
    """
    similarities = word_similarities(regions, words, lengths, gamma1=gamma1, gamma2=gamma2)
    return _match(gamma3 * distributed.gather(similarities), class_ids)


def word_similarities(regions: Tensor, words: Tensor, lengths: Tensor, *, gamma1: float, gamma2: float) -> Tensor:
    """gamma2 R(Q, D), R of eq. 10, for every image against every caption: [images, captions].

    The published code leaves out eq. 10's root, the power of 1 / gamma2, so that gamma3 is as sharp as gamma2 gamma3.

    Args:
        regions: [images, D, h, w].
        words: [captions, D, T].
        lengths: [captions] int64.
        gamma1: As in `damsm_word_loss`.
        gamma2: As in `damsm_word_loss`.
    """
    regions, words = regions.flatten(2).float(), words.float()
    valid = valid_words(lengths, words.shape[2])
    # Laid out as [image, region, caption, word], every product is a batched matrix product without copies.
    scores = torch.einsum("idr,cdt->irct", regions, words)
    # Softmax over the words first (eq. 8), then over the regions (eq. 9).
    over_words = torch.softmax(scores.masked_fill(~valid, -torch.inf), dim=3)
    attention = torch.softmax(gamma1 * over_words, dim=1)
    context = torch.einsum("idr,irct->idct", regions, attention)
    # A word's product with its context is the attended mean of its products with the regions.
    products = (attention * scores).sum(dim=1)
    norms = context.norm(dim=1) * words.norm(dim=1)
    cosine = products / norms.clamp(min=1e-8)
    return torch.logsumexp((gamma2 * cosine).masked_fill(~valid, -torch.inf), dim=2)


def damsm_sentence_loss(
    image: Tensor, sentence: Tensor, class_ids: Tensor | None, *, gamma3: float = 10.0
) -> MatchingLoss:
    """The sentence-level matching loss L_1^s + L_2^s.

    Args:
        image: Global image features [N, D]; this process's share of them.
        sentence: Sentence features [N, D], all of them.
        class_ids: [N] int64, or None; as in `damsm_word_loss`.
        gamma3: Sharpness of the softmax over the batch.
    """
    image, sentence = image.float(), sentence.float()
    norms = image.norm(dim=1)[:, None] * sentence.norm(dim=1)[None, :]
    similarities = gamma3 * (image @ sentence.T) / norms.clamp(min=1e-8)
    return _match(distributed.gather(similarities), class_ids)


def _match(similarities: Tensor, class_ids: Tensor | None) -> MatchingLoss:
    """Cross-entropy along both axes of [images, captions], whose diagonal holds the right pairs."""
    if class_ids is not None:
        same = class_ids[:, None] == class_ids[None, :]
        others = same & ~torch.eye(len(class_ids), dtype=torch.bool, device=same.device)
        similarities = similarities.masked_fill(others, -torch.inf)
    labels = torch.arange(len(similarities), device=similarities.device)
    return MatchingLoss(F.cross_entropy(similarities, labels), F.cross_entropy(similarities.T, labels))
