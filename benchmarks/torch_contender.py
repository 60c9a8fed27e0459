"""The network as it is published, in PyTorch: what a user would run without this project's engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.contender import AS_WRITTEN, BenchmarkModel, Contender, Sampler, Stopwatch, read_captions
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.request import FloatArray
from dmgan_runtime.results import to_pil
from dmgan_train.devices import autocast_type, choose_device
from dmgan_train.models import GeneratorNetwork, TextEncoder, TextEncoderOutput

FORMS = {"eager": "PyTorch eager", "channels_last": "PyTorch channels-last", "compile": "torch.compile"}
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class TorchContender(Contender):
    """A way to run the network in PyTorch.

    Attributes:
        form: A key of `FORMS`.
    """

    engine: str = "torch"
    form: str = "eager"

    @property
    def name(self) -> str:
        """For example `torch-eager-fp32`."""
        return f"{self.engine}-{self.form}-{self.precision}"

    @property
    def label(self) -> str:
        return FORMS[self.form]

    def open(self, model: BenchmarkModel) -> TorchSampler:
        return TorchSampler(self, model)

    def operations(self, model: BenchmarkModel) -> dict[str, int]:
        return model.operations[AS_WRITTEN]


class TorchSampler(Sampler):
    """The network that is not rewritten, eager or compiled.

    The text encoder is computed in fp32, as every engine here does; it takes less than a hundredth of the time.
    """

    def __init__(self, contender: TorchContender, model: BenchmarkModel) -> None:
        """Raises a `BackendError` if the device or its arithmetic cannot be had here."""
        super().__init__()
        torch.set_num_threads(contender.threads)
        self._device, self._dtype = choose_device(contender.device), _DTYPES[contender.precision]
        autocast_type("bf16" if contender.precision == "bf16" else "fp32", self._device)  # refuses what is not there
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        torch.backends.cudnn.allow_tf32 = contender.precision != "fp32"
        with Bundle(model.bundle) as bundle:
            self._tokenizer, self._manifest = bundle.tokenizer(), bundle.manifest
        spec = self._manifest.model
        state = torch.load(model.weights, map_location="cpu", weights_only=True)
        self._text_encoder = TextEncoder(len(self._tokenizer), spec).eval().to(self._device)
        self._text_encoder.load_state_dict(state["text_encoder"])
        self._network = GeneratorNetwork(spec).eval().requires_grad_(False)
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

    def version(self) -> str:
        return str(torch.__version__)

    def generate(self, captions: Sequence[str]) -> list[Image.Image]:
        """Like the runtime, it makes the pictures of every stage."""
        stages = [image.float().cpu().numpy() for image in self._run(*self._read(captions))]
        return [[to_pil(stage[row]) for stage in stages][-1] for row in range(len(captions))]

    def synthesize(self, captions: Sequence[str]) -> FloatArray:
        image: FloatArray = self._run(*self._read(captions))[-1].float().cpu().numpy()
        return image

    def time_graphs(self, captions: Sequence[str]) -> dict[str, float]:
        """A compiled network is one graph; in another, a stage ends when its image is on the host."""
        if self._compiled:
            return {}
        heads: list[Any] = [stage.to_image for stage in (self._network.initial, *self._network.refinements)]
        ends = zip(self._manifest.model.roles, (self._text_encoder, *heads), strict=True)
        inputs = self._read(captions)
        stopwatch = Stopwatch(self.clock)
        with ExitStack() as hooks:
            for role, module in ends:
                hooks.callback(module.register_forward_hook(partial(_end_lap, stopwatch, role)).remove)
            self._run(*inputs)
        return stopwatch.laps

    def release(self) -> None:
        """Frees compiled code and a GPU's memory."""
        if self._compiled:
            torch._dynamo.reset()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _run(self, tokens: Tensor, lengths: Tensor, noise: Tensor, condition_noise: Tensor) -> tuple[Tensor, ...]:
        text = self._text_encoder(tokens.to(self._device), lengths)
        words, sentence = text.words.to(self._dtype), text.sentence.to(self._dtype)
        output = self._generator(sentence, words, lengths.to(self._device), noise, condition_noise)
        images: tuple[Tensor, ...] = output.images
        return images

    def _read(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        text, *noises = read_captions(captions, self._tokenizer, self._manifest)
        tokens, lengths = map(torch.from_numpy, text)
        noise, condition_noise = (torch.from_numpy(noise).to(self._device, self._dtype) for noise in noises)
        return tokens, lengths, noise, condition_noise


def _end_lap(
    stopwatch: Stopwatch, role: str, _module: nn.Module, _inputs: Any, output: Tensor | TextEncoderOutput
) -> None:
    (output.sentence if isinstance(output, TextEncoderOutput) else output).float().cpu()  # waits for a GPU
    stopwatch.lap(role)
