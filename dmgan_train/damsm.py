"""The first phase: text and image encoder learn to match (DAMSM; Xu et al., AttnGAN, CVPR 2018)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train import distributed
from dmgan_train.data import BrokenFiles, CaptionedImages, Split, TrainingBatch, collate, make_loader, steps_per_epoch
from dmgan_train.data.pyramid import pyramid
from dmgan_train.devices import autocast_type, place
from dmgan_train.distributed import CaptionBatch, synchronise_batch_norms
from dmgan_train.logging import Journal
from dmgan_train.loop import phase_steps
from dmgan_train.losses import contrastive_loss, damsm_sentence_loss, damsm_word_loss
from dmgan_train.models import ImageFeatures
from dmgan_train.models.encoders import build_encoders
from dmgan_train.models.trunks import load_trunk_weights
from dmgan_train.optimizer import load_optimizer
from dmgan_train.progress import Progress
from dmgan_train.settings import Settings


class _Matched(NamedTuple):
    """What one caption of every image comes to: the losses, how often it is found, its feature."""

    word_loss: Tensor
    sentence_loss: Tensor
    top1: Tensor
    sentence: Tensor


class DamsmPhase:
    """Trains the two encoders on the word and the sentence loss."""

    name = "damsm"
    headlines: tuple[str, ...] = ("word_loss", "sentence_loss", "top1")

    def __init__(
        self, settings: Settings, split: Split, tokenizer: Tokenizer, device: torch.device, workers: int
    ) -> None:
        """Args:
        settings: The run's.
        split: The training split.
        tokenizer: With the run's vocabulary.
        device: Where the networks live.
        workers: Processes that read pictures ahead.
        """
        own = settings.damsm
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.device = device
        self._half = autocast_type(own.precision, device, "damsm.precision")
        self.text_encoder, self.image_encoder = build_encoders(settings, len(tokenizer))
        self.text_encoder.to(device)
        place(self.image_encoder, device)
        synchronise_batch_norms(self.image_encoder, device)
        encoders = nn.ModuleList([self.text_encoder, self.image_encoder])
        distributed.broadcast(encoders)
        self._trained = [parameter for parameter in encoders.parameters() if parameter.requires_grad]
        betas = (own.beta1, own.beta2)
        self._optimizer = torch.optim.Adam(self._trained, lr=own.learning_rate, betas=betas, fused=True)
        self._split, self._tokenizer, self._workers = split, tokenizer, workers
        self._cache: tuple[Tensor, Tensor] | None = None
        self.batch_size = own.batch_size
        self._share = distributed.share_of(own.batch_size, "damsm.batch_size")
        self.steps_per_epoch = steps_per_epoch(len(split), own.batch_size, "damsm.batch_size")
        self.steps = phase_steps(own.epochs, own.steps, self.steps_per_epoch)
        self.checkpoint_every = own.checkpoint_every

    def batches(self, start_step: int) -> Generator[TrainingBatch]:
        """Batches from a step on; without pictures where the trunk's features are cached.

        Raises:
            CheckpointError: if the trunk's weights cannot be had.
        """
        own = self.settings.damsm
        if start_step == 0:  # later they are in the checkpoint
            load_trunk_weights(self.image_encoder.trunk, own.trunk_weights)
        if own.cache_trunk:
            self._cache = self._cache_features()
        dataset = CaptionedImages(
            self._split,
            self._tokenizer,
            resolution=None if own.cache_trunk else own.trunk_resolution,
            max_words=own.words,
            seed=self.settings.seed,
            augment=self.settings.data.augment,
            cache=self.settings.data.cache and not own.cache_trunk,
            pairs=own.contrastive_weight > 0,
        )
        broken = BrokenFiles(self._split, self.settings.data.broken_limit)
        workers = 0 if own.cache_trunk else self._workers
        return make_loader(
            dataset,
            own.batch_size,
            self.settings.seed,
            start_step,
            workers,
            broken,
            self._share,
            by_class=not own.mask_class,
            pin=self.device.type == "cuda",
        )

    def step(self, batch: TrainingBatch, step: int) -> Mapping[str, Tensor]:
        own = self.settings.damsm
        self.text_encoder.train()
        self.image_encoder.train()
        self._set_learning_rate(step // self.steps_per_epoch)
        image = self._encode_images(batch)
        matched = [self._match(image, captions) for captions in distributed.gather_captions(batch)]
        words, sentences, found, features = zip(*matched, strict=True)
        losses = {"word_loss": torch.stack(words).sum(), "sentence_loss": torch.stack(sentences).sum()}
        total = losses["word_loss"] + losses["sentence_loss"]
        if own.contrastive_weight:
            losses["contrastive"] = contrastive_loss(*features, temperature=own.contrastive_temperature)
            total = total + own.contrastive_weight * losses["contrastive"]
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        distributed.average_gradients(self._trained)
        nn.utils.clip_grad_norm_(self.text_encoder.parameters(), own.gradient_clip)
        self._optimizer.step()
        return losses | {"top1": torch.stack(found).mean()}

    def _match(self, image: ImageFeatures, captions: CaptionBatch) -> _Matched:
        """Compares the images of this process's share with one caption of every image of the batch."""
        own = self.settings.damsm
        tokens, lengths, all_ids = (values.to(self.device, non_blocking=True) for values in captions)
        text = self.text_encoder(tokens, captions.lengths)
        class_ids = all_ids if own.mask_class else None
        word = damsm_word_loss(
            image.regions, text.words, lengths, class_ids, gamma1=own.gamma1, gamma2=own.gamma2, gamma3=own.gamma3
        )
        sentence = damsm_sentence_loss(image.image, text.sentence, class_ids, gamma3=own.gamma3)
        found = _top1(image.image.detach(), text.sentence.detach())
        return _Matched(word.total, sentence.total, found, text.sentence)

    def looks_after(self, done: int) -> bool:
        """Never: there is nothing to see yet."""
        return False

    def look(self, done: int, journal: Journal) -> None:
        """Nothing: `looks_after` is never true."""

    def has_looked(self, done: int) -> bool:
        return True

    def state(self) -> dict[str, Any]:
        return {
            "text_encoder": self.text_encoder.state_dict(),
            "image_encoder": self.image_encoder.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.text_encoder.load_state_dict(state["text_encoder"])
        self.image_encoder.load_state_dict(state["image_encoder"])
        load_optimizer(self._optimizer, state["optimizer"])

    def _set_learning_rate(self, epoch: int) -> None:
        own = self.settings.damsm
        for group in self._optimizer.param_groups:
            group["lr"] = own.learning_rate * max(own.learning_rate_decay**epoch, 0.1)

    def _encode_images(self, batch: TrainingBatch) -> ImageFeatures:
        if self._cache is None:
            features = self._extract_features(batch)
        else:
            features = tuple(part[batch.indices].to(self.device) for part in self._cache)
        regions, pooled = (part.float() for part in features)
        return self.image_encoder.project(regions, pooled)

    def _extract_features(self, batch: TrainingBatch) -> tuple[Tensor, ...]:
        images, mirrored = (part.to(self.device, non_blocking=True) for part in (batch.images, batch.mirrored))
        (images,) = pyramid(images, mirrored, (self.settings.damsm.trunk_resolution,))
        with torch.autocast(self.device.type, dtype=self._half, enabled=self._half is not None):
            return self.image_encoder.extract_features(images)

    @torch.inference_mode()
    def _cache_features(self) -> tuple[Tensor, Tensor]:
        """The frozen trunk's features of every training image, in half precision on the CPU."""
        own = self.settings.damsm
        dataset = CaptionedImages(
            self._split, self._tokenizer, resolution=own.trunk_resolution, max_words=own.words, augment="none"
        )
        broken = BrokenFiles(self._split, self.settings.data.broken_limit)
        self.image_encoder.eval()
        regions, pooled, examples = [], [], []
        with Progress(len(dataset), "features of the training images", "image") as bar:
            for start in range(0, len(dataset), own.batch_size):
                items = [dataset[0, index] for index in range(start, min(start + own.batch_size, len(dataset)))]
                batch = collate(items)
                broken.add(batch.broken)
                seen = self._extract_features(batch)
                regions.append(seen[0].half().cpu())
                pooled.append(seen[1].half().cpu())
                examples += [item.example for item in items]
                bar.update(len(items))
        # Where a broken picture was replaced, its captions must be too: nothing opens it again.
        self._split = replace(self._split, examples=tuple(examples))
        return torch.cat(regions), torch.cat(pooled)


def _top1(image: Tensor, sentence: Tensor) -> Tensor:
    """How often an image's own caption is the nearest of the whole batch, in [0, 1]."""
    similarity = nn.functional.normalize(image) @ nn.functional.normalize(sentence).T
    own = distributed.share(torch.arange(len(sentence), device=image.device))
    return (similarity.argmax(dim=1) == own).float().mean()
