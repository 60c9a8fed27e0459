"""What is asked of a generator: options that were checked, one image to make, and the batch that an engine takes."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from dmgan_runtime.errors import SettingsError
from dmgan_runtime.graphs import EVERYTHING, IMAGE
from dmgan_runtime.manifest import ModelSpec
from dmgan_runtime.noise import MAX_SEED, Condition, check_seed, check_truncation, draw_noise, fresh_seed
from dmgan_runtime.tokenizer import Encoding, Tokens

FloatArray: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GenerationOptions:
    """How images are to be made, checked; `Generator.generate` says what each option means.

    Attributes:
        stages: How many stages to compute.
        seed: The seed of the first image of every caption.
        images_per_caption: How many images each caption has; their seeds are `seed`, `seed + 1` and so on.
        attention: Whether to return the memory's attention and gates.
        truncation: Over 0 and at most 1.
        condition: Whether the condition is sampled or its mean.
        batch_size: How many images are computed together.
    """

    stages: int
    seed: int
    images_per_caption: int
    attention: bool
    truncation: float
    condition: Condition
    batch_size: int

    @property
    def wanted(self) -> frozenset[str]:
        """The outputs to fetch of every stage."""
        return EVERYTHING if self.attention else IMAGE


class ImageRequest(NamedTuple):
    """One image to make."""

    caption: str
    encoding: Encoding
    seed: int


class TextFeatures(NamedTuple):
    """What the text encoder makes of N captions.

    Attributes:
        word_features: [N, D, T] float32; what stands beyond a caption's length has no effect.
        sentence_feature: [N, D] float32.
        lengths: [N] int64, from 1 to T.
    """

    word_features: FloatArray
    sentence_feature: FloatArray
    lengths: npt.NDArray[np.int64]


class Batch(NamedTuple):
    """N images to make, as an engine takes them.

    Attributes:
        text: What they show: tokens, or features that were made of tokens before.
        noise: [N, z] float32.
        condition_noise: [N, c] float32.
    """

    text: Tokens | TextFeatures
    noise: FloatArray
    condition_noise: FloatArray

    @property
    def size(self) -> int:
        """N."""
        return len(self.noise)

    @property
    def inputs(self) -> dict[str, npt.NDArray[Any]]:
        """Every array by the name that the graphs have for it."""
        return {**self.text._asdict(), "noise": self.noise, "condition_noise": self.condition_noise}

    def rows(self, first: int, size: int) -> Batch:
        """`size` of the images, beginning with one, or as many as there are."""
        part = slice(first, first + size)
        text = type(self.text)(*(array[part] for array in self.text))  # type: ignore[arg-type]
        return Batch(text, self.noise[part], self.condition_noise[part])


def check_options(
    model: ModelSpec,
    max_batch: int | None,
    *,
    seed: int | None = None,
    images_per_caption: int = 1,
    resolution: int | None = None,
    attention: bool = False,
    truncation: float = 1.0,
    condition: Condition | None = None,
    batch_size: int = 1,
) -> GenerationOptions:
    """Checks the options of `Generator.generate`, and draws a seed if there is none.

    Args:
        model: The model's shape.
        max_batch: How many images the engine takes at once; None for any number.
        seed: As in `Generator.generate`, like all that follow.
        images_per_caption: At least 1.
        resolution: One of the model's, or None for the largest.
        attention: Whether to return the memory's attention and gates.
        truncation: Over 0 and at most 1.
        condition: "sampled", "mean", or None for the model's own.
        batch_size: At least 1; cut to `max_batch`.

    Raises:
        SettingsError: naming what is out of its range.
    """
    resolutions = model.resolutions
    stages = len(resolutions)
    if resolution is not None:
        try:
            stages = resolutions.index(operator.index(resolution)) + 1
        except (TypeError, ValueError):
            choices = ", ".join(map(str, resolutions))
            raise SettingsError(
                f"resolution {resolution!r} is not one of this model's; pass one of {choices}"
            ) from None
    if not isinstance(attention, bool):
        raise SettingsError(f"attention is {attention!r}; pass True or False")
    if condition not in (None, *get_args(Condition)):
        raise SettingsError(f"condition is {condition!r}; pass 'sampled', 'mean', or None for the model's own")
    images = check_at_least("images_per_caption", images_per_caption, 1)
    size = check_at_least("batch_size", batch_size, 1)
    first = fresh_seed() if seed is None else check_seed(seed)
    if first + images - 1 > MAX_SEED:
        raise SettingsError(
            f"the last of {images} images has the seed {first} + {images - 1}, which is out of range; pass a seed of at"
            f" most {MAX_SEED - images + 1}"
        )
    return GenerationOptions(
        stages=stages,
        seed=first,
        images_per_caption=images,
        attention=attention,
        truncation=check_truncation(truncation),
        condition=condition or model.condition,
        batch_size=min(size, max_batch or size),
    )


def check_at_least(name: str, value: int, least: int) -> int:
    """Returns an argument as a plain int.

    Raises:
        SettingsError: if it is no whole number, or less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise SettingsError(f"{name} is {value!r}; pass a whole number, at least {least}")
    return number


def in_batches(requests: Iterable[ImageRequest], size: int) -> Iterator[list[ImageRequest]]:
    """Cuts requests into lists of `size`, the last of which may be shorter.

    If `requests` ends with an error, what came before it is handed out first.
    """
    part: list[ImageRequest] = []
    try:
        for request in requests:
            part.append(request)
            if len(part) == size:
                yield part
                part = []
    except Exception:
        if part:
            yield part
        raise
    if part:
        yield part


def to_batch(requests: Sequence[ImageRequest], model: ModelSpec, options: GenerationOptions) -> Batch:
    """The inputs of the networks: every row is a function of its own request and the options alone."""
    seeds = (request.seed for request in requests)
    noise, condition_noise = draw_noise(
        seeds, model.noise_features, model.condition_features, options.truncation, options.condition
    )
    return Batch(Tokens.of(request.encoding for request in requests), noise, condition_noise)


def check_batch(
    tokens: Any, lengths: Any, noise: Any, condition_noise: Any, spec: ModelSpec, max_words: int, vocabulary: int
) -> Batch:
    """Checks types, shapes and ranges of arrays from a user, and pads the tokens.

    Args:
        tokens: [N, W] int64, W from 1 to `max_words`; or what numpy makes such an array of, like the others.
        lengths: [N] int64, from 1 to W.
        noise: [N, z] float32.
        condition_noise: [N, c] float32.
        spec: The model's shape.
        max_words: T.
        vocabulary: How many words the vocabulary has, padding included.

    Returns:
        The batch; its tokens are [N, T].

    Raises:
        SettingsError: naming the array and what it should be.
    """
    given = {"tokens": tokens, "lengths": lengths, "noise": noise, "condition_noise": condition_noise}
    arrays = {name: _as_array(name, values) for name, values in given.items()}
    shape = arrays["tokens"].shape
    if len(shape) != 2 or not shape[0] or not 1 <= shape[1] <= max_words:
        raise SettingsError(
            f"tokens has the shape {list(shape)}; pass [N, W], at least one row, and from 1 to {max_words} words"
            " (tokenizer.encode_batch makes them of captions)"
        )
    rows, words = shape
    _check_array("tokens", arrays["tokens"], np.int64, (rows, words))
    _check_array("lengths", arrays["lengths"], np.int64, (rows,))
    _check_array("noise", arrays["noise"], np.float32, (rows, spec.noise_features))
    _check_array("condition_noise", arrays["condition_noise"], np.float32, (rows, spec.condition_features))
    _check_range("tokens", arrays["tokens"], 0, vocabulary - 1)
    _check_range("lengths", arrays["lengths"], 1, words)
    for name in ("noise", "condition_noise"):
        if not np.isfinite(arrays[name]).all():
            raise SettingsError(f"{name} holds values that are no numbers; draw it from a standard normal distribution")
    padded = np.pad(arrays["tokens"], ((0, 0), (0, max_words - words)))
    return Batch(Tokens(padded, arrays["lengths"]), arrays["noise"], arrays["condition_noise"])


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
