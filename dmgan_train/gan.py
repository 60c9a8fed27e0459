"""The second phase: the generator against its discriminators, with the encoders frozen (eq. 10 to 13)."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train import distributed
from dmgan_train.augmentation import augment
from dmgan_train.checkpoint import check_fingerprint, fingerprint
from dmgan_train.data import BrokenFiles, CaptionedImages, Split, TrainingBatch, make_loader, steps_per_epoch
from dmgan_train.data.pyramid import pyramid
from dmgan_train.devices import autocast_type, place
from dmgan_train.distributed import CaptionBatch, synchronise_batch_norms
from dmgan_train.ema import StatisticsCaptions, settle_average
from dmgan_train.logging import Journal
from dmgan_train.loop import phase_steps
from dmgan_train.losses import (
    conditioning_loss,
    contrastive_loss,
    damsm_sentence_loss,
    damsm_word_loss,
    discriminator_loss,
    generator_adversarial_loss,
    perceptual_loss,
    r1_penalty,
    reconstruction_loss,
)
from dmgan_train.models import (
    Discriminator,
    GeneratorNetwork,
    GeneratorOutput,
    ImageEncoder,
    TextEncoder,
    TextEncoderOutput,
    build_discriminators,
)
from dmgan_train.models.trunks import fold_batch_norms
from dmgan_train.monitor import Monitor, gate_means
from dmgan_train.optimizer import ScaledAdam
from dmgan_train.schedule import check_schedule, learning_rates, stages_beginning, stages_training, stages_warming_up
from dmgan_train.settings import Settings
from dmgan_train.variation import noise_of_pictures, vary


class _Drawn(NamedTuple):
    """One caption of every image of the batch, and the images that are drawn of it.

    Attributes:
        text: Of all captions.
        lengths: Of all captions.
        masked: The classes of all captions; None where captions of an image's own class count as wrong.
        output: Of this process's share of the captions.
    """

    text: TextEncoderOutput
    lengths: Tensor
    masked: Tensor | None
    output: GeneratorOutput


class GanPhase:
    """Trains generator and discriminators, one step of each in turn."""

    name = "gan"

    def __init__(
        self,
        settings: Settings,
        split: Split,
        tokenizer: Tokenizer,
        encoders: tuple[TextEncoder, ImageEncoder],
        monitor: Monitor,
        device: torch.device,
        workers: int,
    ) -> None:
        """Args:
        settings: The run's.
        split: The training split.
        tokenizer: With the run's vocabulary.
        encoders: Trained in the first phase; they are frozen here, and the trunk's BatchNorms folded.
        monitor: What is looked at now and then.
        device: Where the networks live.
        workers: Processes that read pictures ahead.
        """
        own = settings.gan
        torch.manual_seed(settings.seed)
        self.settings, self.device = settings, device
        self._half = autocast_type(own.precision, device)
        self.text_encoder, self.image_encoder = encoders
        for encoder in encoders:
            place(encoder, device)
            encoder.eval().requires_grad_(False)
        fold_batch_norms(self.image_encoder.trunk)
        self._build_networks()
        self._generator_optimizer = self._build_optimizer(self.generator, own.generator_learning_rate)
        # One optimizer for all: Adam treats every parameter on its own.
        self._discriminator_optimizer = self._build_optimizer(self.discriminators, own.discriminator_learning_rate)
        self._captions = StatisticsCaptions(split, tokenizer, self.text_encoder)
        self._monitor, self._workers = monitor, workers
        self._settled_after: int | None = None  # updates of the average
        self._stages = settings.model.stages  # that the last step trained
        self.batch_size = own.batch_size
        self._share = distributed.share_of(own.batch_size, "gan.batch_size")
        self.steps_per_epoch = steps_per_epoch(len(split), own.batch_size, "gan.batch_size")
        self.steps = phase_steps(own.epochs, own.steps, self.steps_per_epoch)
        check_schedule(self.steps, own)
        self.checkpoint_every = own.checkpoint_every
        self.headlines = (
            *(f"{who}_{settings.model.resolutions[-1]}" for who in ("discriminator", "generator")),
            "damsm",
        )

    def _build_networks(self) -> None:
        own, spec = self.settings.gan, self.settings.model
        # On CPUs transposed convolutions and spectral norm are slower with the channels last (docs/training.md).
        layout = torch.channels_last if self.device.type == "cuda" else torch.preserve_format
        self.generator = GeneratorNetwork(spec)
        place(self.generator, self.device, layout)
        self.discriminators = build_discriminators(spec, own.discriminator_channels)
        place(self.discriminators, self.device, layout)
        for network in (self.generator, self.discriminators):
            distributed.broadcast(network)
        self.generator_ema = AveragedModel(self.generator, multi_avg_fn=get_ema_multi_avg_fn(own.ema))
        synchronise_batch_norms(self.generator, self.device)
        if own.compile:
            for network in (self.generator, *self.discriminators, self.image_encoder.trunk):
                network.compile()

    def _build_optimizer(self, network: nn.Module, rate: float) -> ScaledAdam:
        betas = (self.settings.gan.beta1, self.settings.gan.beta2)
        return ScaledAdam(network, rate, betas, self.device, fp16=self._half == torch.float16)

    def start_from(self, generator: Mapping[str, Tensor]) -> None:
        """Begins with these weights instead of random ones; a checkpoint that is loaded later replaces them."""
        for network in (self.generator, self.generator_ema.module):
            network.load_state_dict(generator)

    def batches(self, start_step: int) -> Generator[TrainingBatch]:
        """Batches from a step on, with pictures as large as the largest stage that trains: small ones take less time.

        The pictures of the first of them are read into memory now, if they are kept there.
        """
        broken = BrokenFiles(self._captions.split, self.settings.data.broken_limit)
        return self._follow(self._load(start_step, broken), start_step, broken)

    def _follow(
        self, batches: Generator[TrainingBatch], start_step: int, broken: BrokenFiles
    ) -> Generator[TrainingBatch]:
        """Batches, and larger ones from where a stage joins."""
        try:
            for step in itertools.count(start_step):
                if step > start_step and self._stages_at(step) != self._stages_at(step - 1):
                    batches.close()
                    batches = self._load(step, broken)
                yield next(batches)
        finally:
            batches.close()

    def _stages_at(self, step: int) -> int:
        return stages_training(step, self.settings)

    def _load(self, start_step: int, broken: BrokenFiles) -> Generator[TrainingBatch]:
        dataset = CaptionedImages(
            self._captions.split,
            self._captions.tokenizer,
            resolution=self.settings.model.resolutions[self._stages_at(start_step) - 1],
            max_words=self.settings.data.training_words,
            seed=self.settings.seed,
            augment=self.settings.data.augment,
            cache=self.settings.data.cache,
            intervals=self.settings.gan.noise_variation,
            pairs=self.settings.gan.contrastive_weight > 0,
        )
        return make_loader(
            dataset,
            self.batch_size,
            self.settings.seed,
            start_step,
            self._workers,
            broken,
            self._share,
            pin=self.device.type == "cuda",
        )

    def step(self, batch: TrainingBatch, step: int) -> Mapping[str, Tensor]:
        self.generator.train()
        self.discriminators.train()
        self._set_learning_rates(step)
        images, mirrored = (part.to(self.device, non_blocking=True) for part in (batch.images, batch.mirrored))
        warming_up = stages_warming_up(step, self.settings.gan)
        if self.settings.gan.warm_up_inherits:
            self._inherit(stages_beginning(step, self.settings.gan))
        self._stages = self._stages_at(step)
        reals = pyramid(images, mirrored, self.settings.model.resolutions[: self._stages])
        captions = distributed.gather_captions(batch)
        if warming_up:
            captions = captions[:1]  # nothing compares two yet
        noise = self._draw_noise(self.settings.model.noise_features)
        if self.settings.gan.noise_variation:
            noise = noise_of_pictures(noise, batch.intervals.to(self.device, non_blocking=True))
            reals = vary(reals, noise)
        drawn = [self._draw(of_each, noise) for of_each in captions]
        if warming_up:
            losses = self._update_generator(self._warm_up_losses(drawn[0].output, reals))
        else:
            losses = self._train_discriminators(reals, drawn, step)
            losses |= self._train_generator(reals, drawn)
        self.generator_ema.update_parameters(self.generator)
        gates = [gate_means(one.output.memories, distributed.share(one.lengths)) for one in drawn]
        return losses | _mean(gates)

    def looks_after(self, done: int) -> bool:
        return self._samples_after(done) or self._keeps_after(done)

    def look(self, done: int, journal: Journal) -> None:
        """Looks at the averaged generator, and keeps a copy of it."""
        self._stages = self._stages_at(done - 1)
        if self._keeps_after(done):
            self._monitor.save_snapshot(self.state(), done)
        if self._samples_after(done):
            generator = self._settle_average()
            self._monitor.sample_and_evaluate(generator, self.text_encoder, done, self._stages, journal)

    def has_looked(self, done: int) -> bool:
        kept = not self._keeps_after(done) or self._monitor.has_snapshot(done)
        return kept and (not self._samples_after(done) or self._monitor.has_sampled(done))

    def _samples_after(self, done: int) -> bool:
        return done % self.settings.gan.sample_every == 0 or done == self.steps

    def _keeps_after(self, done: int) -> bool:
        every = self.settings.gan.snapshot_every
        return every is not None and done % every == 0

    def state(self) -> dict[str, Any]:
        self._settle_average()
        networks = {name: network.state_dict() for name, network in self._networks().items()}
        optimizers = {
            f"{who}_{part}": value for who, own in self._optimizers().items() for part, value in own.state().items()
        }
        return {**networks, **optimizers, "text_encoder_sha256": fingerprint(self.text_encoder)}

    def _settle_average(self) -> GeneratorNetwork:
        generator, averaged = cast("GeneratorNetwork", self.generator_ema.module), int(self.generator_ema.n_averaged)
        if averaged != self._settled_after:
            settle_average(generator, self._captions, self.settings, self._autocast(), self._stages)
            self._settled_after = averaged
        return generator

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` returned.

        Raises:
            CheckpointError: if the generator was trained with another text encoder.
        """
        check_fingerprint(state, self.text_encoder)
        for name, module in self._networks().items():
            module.load_state_dict(state[name])
        for who, optimizer in self._optimizers().items():
            # Only fp16 has a scaler, and runs that are older than it have none either.
            optimizer.load_state({"optimizer": state[f"{who}_optimizer"], "scaler": state.get(f"{who}_scaler", {})})

    def _networks(self) -> dict[str, nn.Module]:
        return {
            "generator": self.generator,
            "generator_ema": self.generator_ema,
            "discriminators": self.discriminators,
        }

    def _optimizers(self) -> dict[str, ScaledAdam]:
        return {"generator": self._generator_optimizer, "discriminator": self._discriminator_optimizer}

    def _inherit(self, stages: Iterable[int]) -> None:
        """Gives stages, counted from 1, the weights of the one before, where both are refinements: of one shape."""
        for stage in stages:
            if stage > 2:
                for generator in (self.generator, cast("GeneratorNetwork", self.generator_ema.module)):
                    before, own = generator.refinements[stage - 3 : stage - 1]
                    own.load_state_dict(before.state_dict())

    def _set_learning_rates(self, step: int) -> None:
        rates = learning_rates(step, self.steps, self.settings.gan)
        self._generator_optimizer.learning_rate, self._discriminator_optimizer.learning_rate = rates

    def _discriminators(self) -> Iterable[Discriminator]:
        return cast("Iterable[Discriminator]", self.discriminators)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self._half, enabled=self._half is not None)

    def _draw_noise(self, features: int) -> Tensor:
        """This process's share of noise that is drawn for the whole batch."""
        return distributed.share(torch.randn(self.batch_size, features, device=self.device))

    def _draw(self, captions: CaptionBatch, noise: Tensor) -> _Drawn:
        """Draws images of one caption of each; z is this process's share, and the condition has noise of its own."""
        tokens, lengths, class_ids = (values.to(self.device, non_blocking=True) for values in captions)
        with torch.no_grad():
            text = self.text_encoder(tokens, captions.lengths)
        own = map(distributed.share, (text.sentence, text.words, lengths))
        condition_noise = self._draw_noise(self.settings.model.condition_features)
        with self._autocast():
            output = self.generator(*own, noise, condition_noise, stages=self._stages)
        return _Drawn(text, lengths, class_ids if self.settings.damsm.mask_class else None, output)

    def _see(self, *batches: Tensor) -> tuple[Tensor, ...]:
        """What is seen of batches of images, each [N, 3, R, R], where they are augmented."""
        images = [batch.float() for batch in batches]
        return augment(*images) if self.settings.gan.augmentation else tuple(images)

    def _train_discriminators(self, reals: list[Tensor], drawn: Sequence[_Drawn], step: int) -> dict[str, Tensor]:
        own = self.settings.gan
        penalised = own.r1_weight > 0 and step % own.r1_every == 0
        self.discriminators.requires_grad_(True)
        judged = zip(*(self._discriminator_losses(reals, one, penalised) for one in drawn), strict=True)
        losses, penalties, accuracies = _sum(next(judged)), _sum(next(judged)), _mean(next(judged))
        weighted = [own.r1_weight * own.r1_every * penalty for penalty in penalties.values()]
        measured = self._discriminator_optimizer.step(torch.stack([*losses.values(), *weighted]).sum())
        return losses | penalties | accuracies | _named("discriminator", measured)

    def _discriminator_losses(
        self, reals: list[Tensor], drawn: _Drawn, penalised: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """The losses of the discriminators, their R1 penalties and their accuracies, for one caption of each."""
        losses, penalties, accuracies = {}, {}, {}
        for discriminator, real, fake in zip(self._discriminators(), reals, drawn.output.images, strict=True):
            side = real.shape[-1]
            with self._autocast():
                (seen_real,), (seen_fake,) = self._see(real), self._see(fake.detach())
                loss = discriminator_loss(discriminator, seen_real, seen_fake, drawn.text.sentence)
            losses[f"discriminator_{side}"] = loss.total
            for kind in ("real", "fake", "mismatched"):
                accuracies[f"{kind}_accuracy_{side}"] = getattr(loss, kind)
            if penalised:  # without autocast: a gradient's gradient needs the range
                sentence = distributed.share(drawn.text.sentence)
                penalties[f"r1_{side}"] = r1_penalty(discriminator, seen_real, sentence)
        return losses, penalties, accuracies

    def _train_generator(self, reals: list[Tensor], drawn: Sequence[_Drawn]) -> dict[str, Tensor]:
        self.discriminators.requires_grad_(False)
        judged, features = zip(*(self._generator_losses(reals, one) for one in drawn), strict=True)
        losses = _sum(judged)
        if self.settings.gan.contrastive_weight:
            whole = (distributed.gather(own.float()) for own in features)
            losses["contrastive"] = contrastive_loss(*whole, temperature=self.settings.gan.contrastive_temperature)
        return self._update_generator(losses)

    def _generator_losses(self, reals: list[Tensor], drawn: _Drawn) -> tuple[dict[str, Tensor], Tensor]:
        """The losses of the images of one caption of each, and what the image encoder says of the last ones."""
        losses = self._own_losses(drawn.output, reals)
        for discriminator, fake in zip(self._discriminators(), drawn.output.images, strict=True):
            with self._autocast():
                (seen,) = self._see(fake)
                loss = generator_adversarial_loss(discriminator, seen, distributed.share(drawn.text.sentence))
            losses[f"generator_{fake.shape[-1]}"] = loss
        of_encoder, features = self._encoder_losses(reals[-1], drawn)
        return losses | of_encoder, features

    def _warm_up_losses(self, fakes: GeneratorOutput, reals: list[Tensor]) -> dict[str, Tensor]:
        losses, first = self._own_losses(fakes, reals), self.settings.gan.warm_up_perceptual_from
        pairs = zip(fakes.images, reals, strict=True)
        judged = [self._perceptual_loss(fake, real) for fake, real in pairs if first and real.shape[-1] >= first]
        if judged:
            losses["perceptual"] = torch.stack(judged).sum()
        return losses

    def _own_losses(self, fakes: GeneratorOutput, reals: list[Tensor]) -> dict[str, Tensor]:
        """The losses that need no other network."""
        mean, log_variance = fakes.condition.mean.float(), fakes.condition.log_variance.float()
        losses = {"conditioning": conditioning_loss(mean, log_variance)}
        if self.settings.gan.reconstruction_weight:
            losses["reconstruction"] = reconstruction_loss([image.float() for image in fakes.images], reals)
        return losses

    def _encoder_losses(self, real: Tensor, drawn: _Drawn) -> tuple[dict[str, Tensor], Tensor]:
        """What the image encoder says of the last stage's images: L_DAMSM, eq. 10's last term, and likeness.

        Returns:
            The losses, and the global features [N, text_features] of the images.
        """
        gammas, fake, text = self.settings.damsm, drawn.output.images[-1], drawn.text
        with self._autocast():
            # As it is, whatever the discriminators see: a frozen network learns no picture by heart, and captions
            # name colours (docs/training.md).
            features = self.image_encoder.extract_features(fake.float())
            image = self.image_encoder.project(*features)
        word = damsm_word_loss(
            image.regions,
            text.words,
            drawn.lengths,
            drawn.masked,
            gamma1=gammas.gamma1,
            gamma2=gammas.gamma2,
            gamma3=gammas.gamma3,
        )
        sentence = damsm_sentence_loss(image.image, text.sentence, drawn.masked, gamma3=gammas.gamma3)
        losses = {"damsm": word.total + sentence.total}
        if self.settings.gan.perceptual_weight:
            losses["perceptual"] = self._perceptual_loss(fake, real, features)
        return losses, image.image

    def _perceptual_loss(self, fake: Tensor, real: Tensor, features: tuple[Tensor, ...] | None = None) -> Tensor:
        """Both images augmented alike, if they are: then known features of the image as it is will not do."""
        with self._autocast():
            seen_fake, seen_real = self._see(fake, real)
            if features is None or self.settings.gan.augmentation:
                features = self.image_encoder.extract_features(seen_fake)
            with torch.no_grad():
                targets = self.image_encoder.extract_features(seen_real)
        return perceptual_loss(features, targets)

    def _update_generator(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        own = self.settings.gan
        weights = {
            "conditioning": own.conditioning_weight,
            "damsm": own.damsm_weight,
            "reconstruction": own.reconstruction_weight,
            "perceptual": own.perceptual_weight,
            "contrastive": own.contrastive_weight,
        }
        total = torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
        return losses | _named("generator", self._generator_optimizer.step(total))


def _named(who: str, measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{who}_{name}": value for name, value in measured.items()}


def _sum(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What was measured of one caption of every image or of two, added up."""
    return {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}


def _mean(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
