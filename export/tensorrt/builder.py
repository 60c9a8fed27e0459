"""Builds one TensorRT plan from one ONNX file."""

from __future__ import annotations

import os
from typing import Any

from dmgan_runtime.backends.built_engines import EngineManifest
from dmgan_runtime.backends.tensorrt.api import new_log, without_garbage_collection
from dmgan_runtime.errors import BackendError, EngineError
from export.tensorrt.bindings import Bindings

# A graph that is given as bytes reads its external data from the working directory. Those files are in no manifest,
# so they are looked for where there can be none.
_NOWHERE = f"{os.devnull}/graph.onnx"


class PlanBuilder:
    """Builds plans with the switches, the targets and the batches of one engine.

    Attributes:
        engine: What is built; its plans are not looked at.
    """

    def __init__(self, bindings: Bindings, engine: EngineManifest, timing_cache: bytes | None = None) -> None:
        """Starts TensorRT's builder.

        Args:
            bindings: TensorRT.
            engine: What to build.
            timing_cache: What `timing_cache` gave before, or empty for a new one, or None to use none.

        Raises:
            BackendError: if TensorRT cannot start here.
        """
        self._bindings = bindings
        self.engine = engine
        self._initial_cache = timing_cache
        self._cache: Any = None
        self._log = new_log(bindings.module)
        try:
            with without_garbage_collection():
                self._builder = bindings.module.Builder(self._log)
        except TypeError as error:  # what its factory's null pointer becomes in Python
            raise BackendError(
                f"{self._name} cannot start its builder: {self._messages(str(error))}; see what nvidia-smi says of the"
                " driver, and whether this TensorRT supports it"
            ) from error

    def build(self, graph: bytes, where: str) -> memoryview:
        """Builds one plan.

        Args:
            graph: The ONNX file's content, with all weights inside; every input's first axis is the batch.
            where: Names it in messages.

        Returns:
            The plan's bytes.

        Raises:
            EngineError: if TensorRT cannot parse or build it, with all of TensorRT's messages.
        """
        self._log.errors.clear()
        network = self._bindings.create_network(self._builder)
        # The network uses the parser's memory until it is built.
        parser = self._parse(network, graph, where)
        config = self._configure(network, where)
        plan = self._builder.build_serialized_network(network, config)
        del parser
        if plan is None:
            raise EngineError(
                f"{where}: {self._name} cannot build it: {self._messages('it does not say why')}; try a smaller"
                " --max-batch, another --precision or another version of TensorRT"
            )
        return memoryview(plan)

    def timing_cache(self) -> bytes:
        """Returns how long each kernel took here, for the next build; empty if no timing cache is used."""
        return b"" if self._cache is None else bytes(self._cache.serialize())

    def _parse(self, network: Any, graph: bytes, where: str) -> Any:
        parser = self._bindings.module.OnnxParser(network, self._log)
        if not parser.parse(graph, _NOWHERE):
            words = "; ".join(str(parser.get_error(index)).strip() for index in range(parser.num_errors))
            raise EngineError(
                f"{where}: {self._name} cannot parse it: {words or self._messages('it does not say why')}; upgrade"
                " TensorRT, try --precision fp32, or export the bundle again with this version of dmgan"
            )
        return parser

    def _configure(self, network: Any, where: str) -> Any:
        config = self._bindings.create_config(self._builder, self.engine)
        profile = self._builder.create_optimization_profile()
        batches = self.engine.profile
        assert batches is not None  # of every TensorRT engine
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            rest = tuple(tensor.shape)[1:]
            profile.set_shape(tensor.name, (batches.min, *rest), (batches.opt, *rest), (batches.max, *rest))
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(
                f"{where}: {self._name} refuses the batches {batches.min}, {batches.opt}, {batches.max}:"
                f" {self._messages('it does not say why')}; choose others"
            )
        if self._initial_cache is not None:
            self._use_timing_cache(config)
        return config

    def _use_timing_cache(self, config: Any) -> None:
        if self._cache is None:
            self._cache = config.create_timing_cache(self._initial_cache)
        if self._cache is None or not config.set_timing_cache(self._cache, False):
            raise EngineError(
                f"{self._name} refuses the timing cache: {self._messages('it does not say why')}; another GPU or"
                " version wrote it: remove it, or choose another file"
            )

    def _messages(self, otherwise: str) -> str:
        return "; ".join(self._log.errors) or otherwise

    @property
    def _name(self) -> str:
        return f"{self._bindings.name} {self._bindings.version}"
