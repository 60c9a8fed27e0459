"""The three stages as numbers: arrays in, arrays out, one stage at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dmgan_runtime.backends.base import Backend
from dmgan_runtime.errors import EngineError, SettingsError
from dmgan_runtime.interface import graph_interface
from dmgan_runtime.manifest import GENERATOR_ROLES
from dmgan_runtime.results import FloatArray
from dmgan_runtime.spec import STAGES, ModelSpec


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


class Stage(NamedTuple):
    """The outputs of one stage for N images; the last three are None where the stage or the model has none.

    Attributes:
        resolution: R, the image's side.
        image: [N, 3, R, R] float32 in [-1, 1].
        attention: [N, T, r, r] float32, r = R / 2.
        writing_gate: [N, T] float32.
        response_gate: [N, 1, r, r] float32.
    """

    resolution: int
    image: FloatArray
    attention: FloatArray | None = None
    writing_gate: FloatArray | None = None
    response_gate: FloatArray | None = None


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
    checked = Batch(*map(np.asarray, batch))
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


def run_stages(backend: Callable[[], Backend], spec: ModelSpec, max_words: int, batch: Batch) -> Iterator[Stage]:
    """Computes the stages of a checked batch, each when it is asked for.

    Args:
        backend: Returns the backend, or raises if it has been closed; called once before each stage.
        spec: The model's shape.
        max_words: T.
        batch: Checked inputs.

    Yields:
        Every stage, smallest first.

    Raises:
        EngineError: if the engine fails, or returns values that are no numbers.
    """
    engine = backend()
    words, sentence = "word_features", "sentence_feature"
    text = engine.run("text_encoder", {"tokens": batch.tokens, "lengths": batch.lengths}, (words, sentence))
    feeds = {sentence: text[sentence], "noise": batch.noise, "condition_noise": batch.condition_noise}
    for stage, (role, resolution) in enumerate(zip(GENERATOR_ROLES, spec.resolutions, strict=True)):
        engine = backend()
        last = stage == STAGES - 1
        names = [output.name for output in graph_interface(role, spec, max_words).outputs]
        outputs = engine.run(role, feeds, [name for name in names if not (last and name == "features")])
        features = outputs.pop("features", None)
        arrays = {name: engine.to_host(tensor) for name, tensor in outputs.items()}
        if not np.isfinite(arrays["image"]).all():
            raise EngineError(
                f"{engine.active.backend} returned an image with values that are no numbers in {role};"
                " try another precision or backend"
            )
        yield Stage(resolution, **arrays)
        feeds = {"previous_features": features, words: text[words], "lengths": batch.lengths}


def _check_array(name: str, array: npt.NDArray[Any], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        wanted = f"{np.dtype(dtype)}{list(shape)}"
        raise SettingsError(f"{name} is {array.dtype}{list(array.shape)}; pass {wanted} (the first axis is the batch)")


def _check_range(name: str, array: npt.NDArray[np.int64], low: int, high: int) -> None:
    if array.min() < low or array.max() > high:
        raise SettingsError(f"{name} has values from {array.min()} to {array.max()}; they go from {low} to {high}")
