"""What is asked of a generator, one image at a time, and how the answers are put together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dmgan_runtime.images import to_pil
from dmgan_runtime.noise import draw_noise
from dmgan_runtime.pipeline import Batch
from dmgan_runtime.results import FloatArray, Gates, Generation, Stage
from dmgan_runtime.spec import ModelSpec
from dmgan_runtime.tokenizer import Encoding


class Order(NamedTuple):
    """One image to make."""

    caption: str
    encoding: Encoding
    seed: int


def in_batches(orders: Iterable[Order], size: int) -> Iterator[list[Order]]:
    """Cuts orders into lists of `size`, the last of which may be shorter.

    If `orders` ends with an error, what came before it is handed out first.
    """
    part: list[Order] = []
    try:
        for order in orders:
            part.append(order)
            if len(part) == size:
                yield part
                part = []
    except Exception:
        if part:
            yield part
        raise
    if part:
        yield part


def to_batch(orders: Sequence[Order], model: ModelSpec, truncation: float) -> Batch:
    """The inputs of the networks: every row is a function of its own order alone."""
    noise, condition_noise = draw_noise(
        (order.seed for order in orders), model.noise_features, model.condition_features, truncation
    )
    tokens = np.stack([order.encoding.tokens for order in orders])
    lengths = np.array([order.encoding.length for order in orders], dtype=np.int64)
    return Batch(tokens, lengths, noise, condition_noise)


def to_generation(order: Order, stages: Sequence[Stage], row: int, attention: bool) -> Generation:
    """Row `row` of the stages, as what a user gets."""
    pictures = {stage.resolution: to_pil(stage.image[row]) for stage in stages}
    words = order.encoding.length
    maps: dict[int, FloatArray] = {}
    gates: dict[int, Gates] = {}
    for stage in stages:
        if attention and stage.attention is not None:
            # Copies, so that one kept image does not keep the arrays of its whole batch.
            maps[stage.resolution] = stage.attention[row, :words].copy()
            writing, response = stage.writing_gate, stage.response_gate
            gates[stage.resolution] = Gates(
                writing=None if writing is None else writing[row, :words].copy(),
                response=None if response is None else response[row, 0].copy(),
            )
    return Generation(
        caption=order.caption,
        seed=order.seed,
        image=pictures[stages[-1].resolution],
        stages=pictures,
        words=order.encoding.used,
        unknown_words=order.encoding.unknown,
        cut_words=order.encoding.cut,
        attention=maps if attention else None,
        gates=gates if attention else None,
    )
