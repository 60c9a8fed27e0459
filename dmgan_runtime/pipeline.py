"""The three stages as numbers: arrays in, arrays out, one stage at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dmgan_runtime.backends.base import Backend, Tensor
from dmgan_runtime.errors import EngineError, SettingsError
from dmgan_runtime.interface import graph_interface
from dmgan_runtime.manifest import GENERATOR_ROLES, Role
from dmgan_runtime.results import FloatArray, Stage
from dmgan_runtime.spec import STAGES, ModelSpec

Lease = Callable[[], AbstractContextManager[Backend]]
"""Lends the backend for one run of a graph, or raises `EngineError` if it has been closed."""


class Batch(NamedTuple):
    """The inputs of N images.

    Attributes:
        tokens: [N, T] int64, indices of the vocabulary.
        lengths: [N] int64, from 1 to T.
        noise: [N, z] float32.
        condition_noise: [N, c] float32.
    """

    tokens: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    noise: FloatArray
    condition_noise: FloatArray


class Text(NamedTuple):
    """What the text encoder makes of N captions: arrays, or tensors where the backend keeps them.

    Attributes:
        word_features: [N, D, T] float32; what stands beyond a caption's length has no effect.
        sentence_feature: [N, D] float32.
        lengths: [N] int64, from 1 to T.
    """

    word_features: Tensor
    sentence_feature: Tensor
    lengths: npt.NDArray[np.int64]


def check_batch(batch: Batch, spec: ModelSpec, max_words: int, vocabulary: int) -> Batch:
    """Checks types, shapes and ranges.

    Args:
        batch: Arrays, or what numpy makes arrays of.
        spec: The model's shape.
        max_words: T.
        vocabulary: How many words the vocabulary has, padding included.

    Returns:
        The batch, as arrays.

    Raises:
        SettingsError: naming the array and what it should be.
    """
    checked = Batch(*map(_as_array, Batch._fields, batch))
    rows = len(checked.tokens) if checked.tokens.ndim else 0
    if not rows:
        raise SettingsError(f"tokens has the shape {checked.tokens.shape}; pass at least one row, [N, {max_words}]")
    _check_array("tokens", checked.tokens, np.int64, (rows, max_words))
    _check_array("lengths", checked.lengths, np.int64, (rows,))
    _check_array("noise", checked.noise, np.float32, (rows, spec.noise_features))
    _check_array("condition_noise", checked.condition_noise, np.float32, (rows, spec.condition_features))
    _check_range("tokens", checked.tokens, 0, vocabulary - 1)
    _check_range("lengths", checked.lengths, 1, max_words)
    for name in ("noise", "condition_noise"):
        if not np.isfinite(getattr(checked, name)).all():
            raise SettingsError(f"{name} holds values that are no numbers; draw it from a standard normal distribution")
    return checked


def run_stages(lease: Lease, spec: ModelSpec, max_words: int, batch: Batch) -> Iterator[Stage]:
    """Computes the stages of a checked batch, each when it is asked for.

    Args:
        lease: Lends the backend; between two graphs nothing is lent, so that it can be closed.
        spec: The model's shape.
        max_words: T.
        batch: Checked inputs.

    Yields:
        Every stage, smallest first.

    Raises:
        EngineError: if the engine fails, is closed, or returns values that are no numbers.
    """
    text = encode_text(lease, batch.tokens, batch.lengths)
    yield from draw_stages(lease, spec, max_words, text, batch.noise, batch.condition_noise)


def encode_text(lease: Lease, tokens: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Text:
    """Runs the text encoder on checked tokens [N, T] and lengths [N].

    Raises:
        EngineError: as `run_stages`.
    """
    words, sentence = "word_features", "sentence_feature"
    with lease() as engine:
        outputs = engine.run("text_encoder", {"tokens": tokens, "lengths": lengths}, (words, sentence))
    return Text(outputs[words], outputs[sentence], lengths)


def draw_stages(
    lease: Lease, spec: ModelSpec, max_words: int, text: Text, noise: FloatArray, condition_noise: FloatArray
) -> Iterator[Stage]:
    """Computes the stages of N texts whose features are known. See `run_stages`.

    Args:
        lease: Lends the backend.
        spec: The model's shape.
        max_words: T.
        text: The text encoder's outputs, or arrays that take their place.
        noise: [N, z] float32.
        condition_noise: [N, c] float32.
    """
    feeds = {"sentence_feature": text.sentence_feature, "noise": noise, "condition_noise": condition_noise}
    for number, (role, resolution) in enumerate(zip(GENERATOR_ROLES, spec.resolutions, strict=True)):
        names = [output.name for output in graph_interface(role, spec, max_words).outputs]
        if number == STAGES - 1:
            names.remove("features")
        arrays, features = _run_stage(lease, role, feeds, names)
        yield Stage(resolution, **arrays)
        feeds = {"previous_features": features, "word_features": text.word_features, "lengths": text.lengths}


def _run_stage(
    lease: Lease, role: Role, feeds: dict[str, Tensor], names: list[str]
) -> tuple[dict[str, FloatArray], Tensor]:
    """A stage's outputs as arrays, but its features where the backend keeps them."""
    with lease() as engine:
        outputs = engine.run(role, feeds, names)
        features = outputs.pop("features", None)
        arrays = {name: engine.to_host(tensor) for name, tensor in outputs.items()}
        if not np.isfinite(arrays["image"]).all():
            raise EngineError(
                f"{engine.active.backend} returned an image with values that are no numbers in {role};"
                " try another precision or backend"
            )
    return arrays, features


def _as_array(name: str, values: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise SettingsError(f"{name} is no array ({error}); pass rows of one length") from None


def _check_array(name: str, array: npt.NDArray[Any], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        wanted = f"{np.dtype(dtype)}{list(shape)}"
        raise SettingsError(f"{name} is {array.dtype}{list(array.shape)}; pass {wanted} (the first axis is the batch)")


def _check_range(name: str, array: npt.NDArray[np.int64], low: int, high: int) -> None:
    if array.min() < low or array.max() > high:
        raise SettingsError(f"{name} has values from {array.min()} to {array.max()}; they go from {low} to {high}")
