"""R-precision (Xu et al., AttnGAN, CVPR 2018), as DM-GAN reports it: does an image find its own caption?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dmgan_runtime.errors import DataError
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.checkpoint import fingerprint, load_encoders
from dmgan_train.data import Split
from dmgan_train.data.pyramid import from_levels
from dmgan_train.evaluation.metrics.orders import Order
from dmgan_train.evaluation.metrics.protocol import MetricResult
from dmgan_train.models import ImageEncoder, TextEncoder
from dmgan_train.run_folder import RunFolder

MISMATCHED = 99
FOLDS = 10
_CAPTIONS_AT_ONCE = 512


class Encoders(NamedTuple):
    """The DAMSM encoders that judge, with what they need to read a caption."""

    text: TextEncoder
    image: ImageEncoder
    tokenizer: Tokenizer
    max_words: int
    name: str


def read_encoders(run: RunFolder, device: torch.device) -> Encoders:
    """The encoders of a run's first phase.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
    """
    text, image = load_encoders(run)
    name = run.root.resolve().name
    return Encoders(text.to(device), image.to(device), run.vocabulary(), run.settings().data.serving_words, name)


class RPrecision:
    """An image is right if its caption is nearer to it than 99 captions of other classes (R = 1).

    Near is the cosine between the image's global feature and the sentence features. Another caption of the very same
    words is not drawn; a tie is wrong.
    """

    def __init__(self, encoders: Encoders, split: Split, seed: int, mismatched: int = MISMATCHED) -> None:
        """Args:
        encoders: Those that judge.
        split: Whose captions are drawn from.
        seed: Draws the captions of image k from (seed, k).
        mismatched: How many captions stand against the right one.

        Raises:
            DataError: if some class leaves too few captions to draw from.
        """
        self._encoders, self._seed, self.mismatched = encoders, seed, mismatched
        captions = [(caption, example.class_id) for example in split.examples for caption in example.captions]
        self._classes = np.array([class_id for _, class_id in captions])
        tokens = encoders.tokenizer.encode_batch((caption for caption, _ in captions), encoders.max_words)
        self._row = {caption: row for row, (caption, _) in enumerate(captions)}
        texts: dict[bytes, int] = {}
        self._texts = np.array([texts.setdefault(row.tobytes(), len(texts)) for row in tokens.tokens])
        self._expect_enough([caption for caption, _ in captions])
        self._sentences = F.normalize(self._encode(*map(torch.from_numpy, tokens)))
        self._right: dict[bool, list[bool]] = {True: [], False: []}

    def add(self, features: Tensor, orders: Sequence[Order], *, real: bool = False) -> None:
        """Judges images, by their `image_features`, against the captions that they were generated for."""
        for feature, order in zip(features, orders, strict=True):
            candidates = self.draw(len(self._right[real]), order)
            scores = self._sentences[candidates] @ feature
            self._right[real].append(bool((scores[0] > scores[1:]).all()))

    def draw(self, number: int, order: Order) -> npt.NDArray[np.int64]:
        """The right caption and then the drawn ones, as rows among the split's captions in order."""
        own = self._row[order.caption]
        others = np.flatnonzero((self._classes != order.class_id) & (self._texts != self._texts[own]))
        rng = np.random.default_rng([self._seed, number])
        return np.concatenate([[own], rng.choice(others, self.mismatched, replace=False)])

    def _expect_enough(self, captions: Sequence[str]) -> None:
        """Raises a DataError if any caption leaves too few to draw from; hours of generating may come before it."""
        pairs = np.stack([self._classes, self._texts], axis=1)
        same_class, same_text, both = (
            counts[places]
            for values in (self._classes, self._texts, pairs)
            for _, places, counts in [np.unique(values, return_inverse=True, return_counts=True, axis=0)]
        )
        others = len(captions) - same_class - same_text + both
        worst = int(others.argmin())
        if others[worst] < self.mismatched:
            raise DataError(
                f"R-precision draws {self.mismatched} captions of other classes, and the split has {others[worst]} for"
                f" {captions[worst]!r}; use a larger split (--split train) or leave r_precision out of --metrics"
            )

    @torch.inference_mode()
    def image_features(self, images: Tensor) -> Tensor:
        """Global features of images [N, 3, R, R] uint8: [N, D] of length 1, on the CPU."""
        device = next(self._encoders.image.parameters()).device
        return F.normalize(self._encoders.image(from_levels(images.to(device))).image).cpu()

    def result(self) -> MetricResult:
        """Mean and standard deviation of ten folds, in percent."""
        folds = [100 * float(fold.mean()) for fold in np.array_split(np.array(self._right[False], float), FOLDS)]
        references = {"chance": 100 / (self.mismatched + 1)}
        if self._right[True]:
            references["real images"] = 100 * float(np.mean(self._right[True]))
        encoders = self._encoders
        return MetricResult(
            name="R-precision %",
            value=float(np.mean(folds)),
            std=float(np.std(folds)),
            better="higher",
            definition=f"images whose caption is nearer to them than {self.mismatched} captions of other classes",
            references=references,
            protocol={
                "generated_images": len(self._right[False]),
                "real_images": len(self._right[True]),
                "R": 1,
                "mismatched_captions": self.mismatched,
                "folds": f"{FOLDS}, in the order of sampling; the standard deviation is of the folds' means (n)",
                "similarity": "cosine of the global image feature and the sentence feature; a tie is wrong",
                "encoders": {
                    "run": encoders.name,
                    "image_encoder_sha256": fingerprint(encoders.image),
                    "text_encoder_sha256": fingerprint(encoders.text),
                    "trunk": f"{type(encoders.image.trunk).__name__} at {encoders.image.resolution} px",
                },
                "caution": "these encoders also taught the generator, as in the paper",
            },
        )

    @torch.inference_mode()
    def _encode(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        device = next(self._encoders.text.parameters()).device
        parts = zip(tokens.split(_CAPTIONS_AT_ONCE), lengths.split(_CAPTIONS_AT_ONCE), strict=True)
        return torch.cat([self._encoders.text(part.to(device), own).sentence.cpu() for part, own in parts])
