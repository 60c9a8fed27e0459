"""The network as it is published, in PyTorch: what a user would run without this project's engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from benchmarks.contenders import Contender
from benchmarks.painters import Stopwatch, read_captions
from benchmarks.subject import Subject
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BackendError
from dmgan_runtime.images import to_pil
from dmgan_runtime.manifest import GENERATOR_ROLES, Role
from dmgan_runtime.results import FloatArray
from dmgan_train.devices import autocast_type
from dmgan_train.models import Generator, RefinementStage, TextEncoder, TextFeatures, valid_words
from dmgan_train.settings import Precision

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchPainter:
    """The unfused network, eager or compiled. See `Painter` for the methods.

    The text encoder is computed in fp32, as every engine here does; it takes less than a hundredth of the time.
    """

    version = str(torch.__version__)

    def __init__(self, subject: Subject, contender: Contender) -> None:
        """Raises a `BackendError` if the device or its arithmetic cannot be had here."""
        torch.set_num_threads(contender.threads)
        self._device, self._dtype = torch.device(contender.device), _DTYPES[contender.precision]
        _prepare_device(self._device, contender.precision)
        with Bundle(subject.bundle) as bundle:
            self._tokenizer, manifest = bundle.tokenizer(), bundle.manifest
        self._spec, self._max_words = manifest.model, manifest.tokenizer.max_words
        state = torch.load(subject.weights, map_location="cpu", weights_only=True)
        self._text_encoder = TextEncoder(len(self._tokenizer), self._spec).eval().to(self._device)
        self._text_encoder.load_state_dict(state["text_encoder"])
        self._network = Generator(self._spec).eval().requires_grad_(False)
        self._network.load_state_dict(state["generator"])
        self._network.to(self._device, self._dtype)
        if contender.form == "channels_last":
            self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._compiled = contender.form == "compile"
        # CUDA graphs, as the engines have them; on a CPU this mode is the default one.
        self._generator: Callable[..., Any] = (
            torch.compile(self._network, mode="reduce-overhead" if self._device.type == "cuda" else None, dynamic=False)
            if self._compiled
            else self._network
        )

    @torch.inference_mode()
    def paint(self, captions: Sequence[str]) -> list[Image.Image]:
        """See `Painter.paint`; like the runtime, it makes the pictures of every stage."""
        stages = [image.float().cpu().numpy() for image in self._run(captions)]
        return [[to_pil(stage[row]) for stage in stages][-1] for row in range(len(captions))]

    @torch.inference_mode()
    def synthesize(self, captions: Sequence[str]) -> FloatArray:
        """See `Painter.synthesize`."""
        image: FloatArray = self._run(captions)[-1].float().cpu().numpy()
        return image

    @torch.inference_mode()
    def time_graphs(self, captions: Sequence[str]) -> dict[Role, float]:
        """See `Painter.time_graphs`; a compiled network is one graph."""
        if self._compiled:
            return {}
        tokens, lengths, noise, condition_noise = self._read(captions)
        network = self._network
        stopwatch = Stopwatch()
        text = self._encode(tokens, lengths)
        self._wait(text.sentence)
        stopwatch.lap("text_encoder")
        condition = network.conditioning(text.sentence, condition_noise)
        features = network.initial(condition.sample, noise)
        self._wait(network.initial.to_image(features))
        stopwatch.lap(GENERATOR_ROLES[0])
        valid = valid_words(lengths.to(self._device), self._max_words)
        for role, module in zip(GENERATOR_ROLES[1:], network.refinements, strict=True):
            stage = cast("RefinementStage", module)
            features, _ = stage(features, text.words, valid)
            self._wait(stage.to_image(features))
            stopwatch.lap(role)
        return stopwatch.laps

    def rest(self) -> None:
        """See `Painter.rest`."""
        if self._compiled:
            torch._dynamo.reset()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(self, captions: Sequence[str]) -> tuple[Tensor, ...]:
        tokens, lengths, noise, condition_noise = self._read(captions)
        text = self._encode(tokens, lengths)
        output = self._generator(text.sentence, text.words, lengths.to(self._device), noise, condition_noise)
        images: tuple[Tensor, ...] = output.images
        return images

    def _read(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch = read_captions(captions, self._tokenizer, self._spec, self._max_words)
        tokens, lengths, noise, condition_noise = map(torch.from_numpy, batch)
        return tokens, lengths, self._to_device(noise), self._to_device(condition_noise)

    def _encode(self, tokens: Tensor, lengths: Tensor) -> TextFeatures:
        text = self._text_encoder(tokens.to(self._device), lengths)
        return TextFeatures(text.words.to(self._dtype), text.sentence.to(self._dtype))

    def _to_device(self, noise: Tensor) -> Tensor:
        return noise.to(self._device, self._dtype)

    @staticmethod
    def _wait(tensor: Tensor) -> None:
        tensor.float().cpu()


def _prepare_device(device: torch.device, precision: str) -> None:
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise BackendError(f"PyTorch {torch.__version__} sees no CUDA device; install a CUDA build of it")
        torch.cuda.set_device(device)
        if precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False
    wanted: Precision = "bf16" if precision == "bf16" else "fp32"
    autocast_type(wanted, device)
