"""R-precision (Xu et al., AttnGAN, CVPR 2018), as DM-GAN reports it: does an image find its own caption?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dmgan_runtime.errors import CheckpointError, DataError
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.checkpoint import fingerprint, load_encoders
from dmgan_train.data import Split
from dmgan_train.data.pyramid import from_levels
from dmgan_train.evaluation.metrics.orders import Order
from dmgan_train.evaluation.metrics.protocol import MetricResult
from dmgan_train.models import ImageEncoder, TextEncoder
from dmgan_train.official import load_official_encoders
from dmgan_train.published import digest
from dmgan_train.run_folder import RunFolder

MISMATCHED = 99
FOLDS = 10
RESAMPLES = 10_000
_RESAMPLES_AT_ONCE = 500
_CAPTIONS_AT_ONCE = 512


_CAUTIONS: Mapping[bool | None, str] = {
    True: "these encoders also taught the generator, as in the paper",
    None: "whether these encoders also taught the generator is not known",
}


class Encoders(NamedTuple):
    """The DAMSM encoders that judge, with what they need to read a caption.

    Attributes:
        text: Of captions.
        image: Of images.
        tokenizer: With the vocabulary that they know.
        max_words: Words of a caption that they read.
        name: Of their run or folder.
        files: SHA-256 of the published files that they are, by `PublishedFile.role`; empty if they were trained here.
        taught: Whether they taught the generator that is judged; None if nobody knows.
    """

    text: TextEncoder
    image: ImageEncoder
    tokenizer: Tokenizer
    max_words: int
    name: str
    files: Mapping[str, str] = MappingProxyType({})
    taught: bool | None = None


def read_encoders(run: RunFolder, device: torch.device) -> Encoders:
    """The encoders of a run's first phase.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
    """
    text, image = load_encoders(run)
    words, name = run.settings().data.serving_words, run.root.resolve().name
    files = run.adopted_files() if run.adopted else {}
    return Encoders(text.to(device), image.to(device), run.vocabulary(), words, name, files)


def read_judge(path: Path, device: torch.device, max_words: int) -> Encoders:
    """Encoders that judge another's generator: a run's, or the authors' as they were published.

    Args:
        path: A run, or a folder with one `image_encoder*.pth`, one `text_encoder*.pth` and `captions.pickle`.
        device: Where they compute.
        max_words: How many words of a caption the authors' read: as many as the model that is judged. A run says it.

    Raises:
        CheckpointError: if a file is missing, damaged, or of another data set than the others.
    """
    run = RunFolder(path)
    if run.settings_file.exists():
        return read_encoders(run, device)
    names = ("text_encoder*.pth", "image_encoder*.pth", "captions.pickle")
    text, image, captions = (_the_one(path, name) for name in names)
    text_encoder, image_encoder, tokenizer = load_official_encoders(text, image, captions)
    files = {"text encoder": digest(text), "image encoder": digest(image)}
    return Encoders(
        text_encoder.to(device),
        image_encoder.to(device),
        tokenizer,
        max_words,
        path.resolve().name,
        files,
    )


def _the_one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise CheckpointError(
            f"{folder}: has {len(found)} files {pattern}; pass a run that `fit` wrote (no bundle), or a folder with"
            " one text_encoder*.pth, one image_encoder*.pth and captions.pickle, as the authors published them"
        )
    return found[0]


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
        self._examples: list[int] = []

    def add(self, features: Tensor, orders: Sequence[Order], *, real: bool = False) -> None:
        """Judges images, by their `image_features`, against the captions that they were generated for."""
        for feature, order in zip(features, orders, strict=True):
            candidates = self.draw(len(self._right[real]), order)
            scores = self._sentences[candidates] @ feature
            self._right[real].append(bool((scores[0] > scores[1:]).all()))
            if not real:
                self._examples.append(order.example)

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
        """Mean and standard deviation of ten folds, in percent, and an interval that knows of the pictures."""
        folds = [100 * float(fold.mean()) for fold in np.array_split(np.array(self._right[False], float), FOLDS)]
        references = {"chance": 100 / (self.mismatched + 1)}
        if self._right[True]:
            references["real images"] = 100 * float(np.mean(self._right[True]))
        encoders = self._encoders
        low, high = bootstrap_interval(self._right[False], self._examples, self._seed)
        cautions = {} if encoders.taught is False else {"caution": _CAUTIONS[encoders.taught]}
        return MetricResult(
            name="R-precision %",
            value=float(np.mean(folds)),
            std=float(np.std(folds)),
            better="higher",
            definition=f"images whose caption is nearer to them than {self.mismatched} captions of other classes",
            references=references,
            details={"95% interval": {"from": 100 * low, "to": 100 * high}},
            protocol={
                "generated_images": len(self._right[False]),
                "real_images": len(self._right[True]),
                "R": 1,
                "mismatched_captions": self.mismatched,
                "folds": f"{FOLDS}, in the order of sampling; the standard deviation is of the folds' means (n)",
                "interval": f"bootstrap by picture, {RESAMPLES:,} resamples, as captions of one are not independent",
                "similarity": "cosine of the global image feature and the sentence feature; a tie is wrong",
                "encoders": {
                    "name": encoders.name,
                    "files": dict(encoders.files),
                    "image_encoder_sha256": fingerprint(encoders.image),
                    "text_encoder_sha256": fingerprint(encoders.text),
                    "trunk": f"{type(encoders.image.trunk).__name__} at {encoders.image.resolution} px",
                },
                **cautions,
            },
        )

    @torch.inference_mode()
    def _encode(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        device = next(self._encoders.text.parameters()).device
        parts = zip(tokens.split(_CAPTIONS_AT_ONCE), lengths.split(_CAPTIONS_AT_ONCE), strict=True)
        return torch.cat([self._encoders.text(part.to(device), own).sentence.cpu() for part, own in parts])


def bootstrap_interval(right: Sequence[bool], pictures: Sequence[int], seed: int) -> tuple[float, float]:
    """The 95% interval of a share, when whole pictures, with all of their images, are drawn with replacement.

    Args:
        right: Of each image, whether it counts.
        pictures: Of each image, the picture whose caption it was generated from.
        seed: Draws the resamples.

    Returns:
        The 2.5th and the 97.5th percentile of the resamples' shares.
    """
    _, place = np.unique(np.asarray(pictures), return_inverse=True)
    images = np.bincount(place)
    hits = np.bincount(place, np.asarray(right, float))
    rng, shares = np.random.default_rng([seed, RESAMPLES]), []
    for _ in range(RESAMPLES // _RESAMPLES_AT_ONCE):
        drawn = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), _RESAMPLES_AT_ONCE)
        shares.append((drawn @ hits) / (drawn @ images))
    low, high = np.percentile(np.concatenate(shares), [2.5, 97.5])
    return float(low), float(high)
