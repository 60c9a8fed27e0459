"""Serves the bundle beside this file, in Triton's Python backend; `dmgan-export triton` puts it into a repository.

It needs dmgan, with the extra of an engine, in the Python that Triton runs. `config.pbtxt` says on which device
(`instance_group`), with which engine (`parameters`), and whether a request may have several responses (`decoupled`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import triton_python_backend_utils as pb_utils

from dmgan_runtime import CaptionError, DmganError, EngineError, Generation, Generator, SettingsError


class Options(NamedTuple):
    """What requests that are computed together have in common."""

    resolution: int | None
    truncation: float


class Job:
    """A request, which makes N images of one size, and its response; it has several if the model is decoupled."""

    def __init__(self, request: Any, decoupled: bool) -> None:
        self._request = request
        self._sender = request.get_response_sender() if decoupled else None
        self.response: Any = None
        self.captions: list[str] = []
        self.seeds: list[int | None] = []
        self.stream = False

    def read(self) -> Options:
        """Reads the inputs, each of which has N rows.

        Raises:
            CaptionError, SettingsError: if one is not as it should be.
        """
        try:
            self.captions = [caption.decode() for caption in self._rows("caption")]
        except UnicodeDecodeError as error:
            raise CaptionError(f"a caption is not UTF-8 ({error}); send text in UTF-8") from error
        if not self.captions:  # Triton lets a request pass that has no other inputs than optional ones
            raise CaptionError("the input caption is missing; send one for each image")
        if unknown := json.loads(self._request.parameters()):
            raise SettingsError(f"no input is called {' or '.join(map(repr, sorted(unknown)))}; see config.pbtxt")
        self.seeds = list(self._rows("seed")) or [None] * len(self.captions)
        self.stream = bool(self._one("stream", False))
        return Options(self._one("resolution", None), self._one("truncation", 1.0))

    @property
    def cancelled(self) -> bool:
        """Whether the client has gone."""
        return bool((self._sender or self._request).is_cancelled())

    def send(self, generations: Sequence[Generation], last: bool) -> None:
        """Answers with the images of a stage, if the request wants them."""
        if last or self.stream:
            self._answer(pb_utils.InferenceResponse(list(_outputs(generations))), last)

    def fail(self, error: DmganError) -> None:
        """Answers with an error."""
        self._refuse(str(error), "INTERNAL" if isinstance(error, EngineError) else "INVALID_ARG")

    def drop(self) -> None:
        """Ends a request that nobody waits for; Triton asks for an answer all the same."""
        self._refuse("the request was cancelled", "CANCELLED")

    def _refuse(self, message: str, kind: str) -> None:
        error = pb_utils.TritonError(message, getattr(pb_utils.TritonError, kind))
        self._answer(pb_utils.InferenceResponse(error=error), last=True)

    def _answer(self, response: Any, last: bool) -> None:
        if self._sender is None:
            self.response = response
        else:
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0)

    def _rows(self, name: str) -> list[Any]:
        tensor = pb_utils.get_input_tensor_by_name(self._request, name)
        return [] if tensor is None else tensor.as_numpy().ravel().tolist()

    def _one(self, name: str, default: Any) -> Any:
        values = set(self._rows(name))
        if len(values) > 1:
            raise SettingsError(f"{name} is {sorted(values)} in one request; send a request for each")
        return values.pop() if values else default


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the bundle on the instance's device, and warms up."""
        config = json.loads(args["model_config"])
        given = {name: value["string_value"] for name, value in config["parameters"].items()}
        try:
            self._generator = Generator.open(
                Path(args["model_repository"]) / args["model_version"] / "bundle",
                backend=given.get("backend", "auto"),
                device="cpu" if args["model_instance_kind"] == "CPU" else f"cuda:{args['model_instance_device_id']}",
                precision=given.get("precision", "auto"),
                threads=int(given["threads"]) if "threads" in given else None,
            )
            active, most = self._generator.active, config["max_batch_size"]
            # Without it (on a CPU) a batch takes as long as its images one by one, and each would wait for the last.
            batches = "dynamic_batching" in config
            self._batch_size = min(most, active.max_batch or most) if batches else 1
            self._generator.warm_up(range(1, self._batch_size + 1), stream=True)
        except DmganError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        self._decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        pb_utils.Logger.log_info(f"{self._generator!r}, in batches of up to {self._batch_size}")

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answers requests; those with the same options are computed together."""
        jobs = [Job(request, self._decoupled) for request in requests]
        groups: dict[Options, list[Job]] = {}
        for job in jobs:
            try:
                options = job.read()
                for caption in job.captions:  # so that one that cannot be read spoils no other request
                    self._generator.encode(caption)
                groups.setdefault(options, []).append(job)
            except DmganError as error:
                job.fail(error)
        for options, group in groups.items():
            try:
                self._generate(group, options)
            except DmganError as error:
                for job in group:
                    job.fail(error)
        return None if self._decoupled else [job.response for job in jobs]

    def finalize(self) -> None:
        """Frees the engine."""
        self._generator.close()

    def _generate(self, jobs: Sequence[Job], options: Options) -> None:
        captions = [caption for job in jobs for caption in job.captions]
        seeds = [seed for job in jobs for seed in job.seeds]
        batches = [slice(first, first + self._batch_size) for first in range(0, len(captions), self._batch_size)]
        streams = [
            self._generator.stream_batch(captions[batch], seeds=seeds[batch], **options._asdict()) for batch in batches
        ]
        largest = options.resolution or max(self._generator.resolutions)
        for parts in zip(*streams, strict=True):
            # Between stages, as one that is being computed cannot be stopped.
            if all(job.cancelled for job in jobs):
                for job in jobs:
                    job.drop()
                return
            generations = iter([generation for part in parts for generation in part])
            last = parts[0][0].image.width == largest
            for job in jobs:
                job.send([next(generations) for _ in job.captions], last)


def _outputs(generations: Sequence[Generation]) -> Iterator[Any]:
    """The outputs of one response, each of N rows."""
    yield pb_utils.Tensor("image", np.stack([np.asarray(generation.image) for generation in generations]))
    sides = [[generation.image.width] for generation in generations]
    yield pb_utils.Tensor("resolution", np.array(sides, dtype=np.int32))
    yield pb_utils.Tensor("seed", np.array([[generation.seed] for generation in generations], dtype=np.uint64))
    for name in ("words", "unknown_words", "cut_words"):
        texts = [[" ".join(getattr(generation, name)).encode()] for generation in generations]
        yield pb_utils.Tensor(name, np.array(texts, dtype=np.object_))
