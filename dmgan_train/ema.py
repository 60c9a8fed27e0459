"""The averaged generator (EMA), which is what is shown, measured and exported, and its BatchNorm statistics."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.data import BrokenFiles, CaptionedImages, Split, TrainingBatch, make_loader
from dmgan_train.models import GeneratorNetwork, TextEncoder
from dmgan_train.settings import Settings

BATCHES = 16
_Norm = nn.modules.batchnorm._BatchNorm


class StatisticsCaptions(NamedTuple):
    """Where the captions come from that statistics are taken over.

    Attributes:
        split: The training split.
        tokenizer: With the run's vocabulary.
        text_encoder: In evaluation mode.
    """

    split: Split
    tokenizer: Tokenizer
    text_encoder: TextEncoder


def settle_average(
    generator: GeneratorNetwork,
    captions: StatisticsCaptions,
    settings: Settings,
    autocast: torch.autocast,
    stages: int,
) -> None:
    """Gives the averaged generator its own BatchNorm statistics, on the same captions and noise every time.

    Args:
        generator: The average; it is left in evaluation mode.
        captions: What it generates images from for this.
        settings: The run's.
        autocast: As in training.
        stages: How many stages are trained by now; those after them would only cost time.
    """
    model, device = settings.model, next(generator.parameters()).device
    dataset = CaptionedImages(
        captions.split,
        captions.tokenizer,
        resolution=None,
        max_words=settings.data.training_words,
        seed=settings.seed,
    )
    # The main process does this alone, with whole batches: statistics of each process's share would be others.
    broken = BrokenFiles(captions.split, settings.data.broken_limit)
    batches = itertools.islice(make_loader(dataset, settings.gan.batch_size, settings.seed, broken=broken), BATCHES)

    def run(batch: TrainingBatch) -> None:
        lengths = batch.lengths.to(device)
        text = captions.text_encoder(batch.tokens.to(device), batch.lengths)
        noise = torch.randn(len(lengths), model.noise_features, device=device)
        condition_noise = torch.randn(len(lengths), model.condition_features, device=device)
        with autocast:
            generator(text.sentence, text.words, lengths, noise, condition_noise, stages=stages)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        settle_batch_norms(generator, (partial(run, batch) for batch in batches))


@torch.no_grad()
def settle_batch_norms(network: nn.Module, batches: Iterable[Callable[[], object]]) -> None:
    """Gives a network the BatchNorm statistics of its own activations, and leaves it in evaluation mode.

    The statistics that training keeps are those of each step's weights. The average of these weights is shorter than
    they are, and so are its activations: by the wrong statistics its images are pale. (Standing statistics: Brock et
    al., BigGAN, ICLR 2019, appendix A.)

    Args:
        network: Whose statistics are replaced.
        batches: Each call runs the network on one batch.
    """
    norms = [module for module in network.modules() if isinstance(module, _Norm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    network.train()
    for run in batches:
        run()
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
