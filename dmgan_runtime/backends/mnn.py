"""MNN on the CPU: the refinement stages from the engine that lies in a bundle, the other graphs by ONNX Runtime.

MNN computes convolutions by Winograd's algorithm, with a fraction of the multiplications: less exact, and faster than
what ONNX Runtime and OpenVINO do on a CPU that has fp32 instructions only (docs/mnn.md).
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np

from dmgan_runtime.backends.base import Active, Array, EngineSettings, GraphBackend, choose_precision, is_engines
from dmgan_runtime.backends.built_engines import FoundEngine, find_engine
from dmgan_runtime.backends.native_output import native_output
from dmgan_runtime.backends.ort_cpu import OrtCpuBackend
from dmgan_runtime.backends.registry import find_engine_row
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BackendError, BundleError, EngineError
from dmgan_runtime.graphs import Interface, graph_interface
from dmgan_runtime.manifest import Role

_ENGINE = find_engine_row("mnn")
_INSTALL = f"install it with: {_ENGINE.install}"
# MNN has one pool of threads in a process, and a forked one inherits it without the threads: the first run there would
# wait for them for ever.
_pool_owner: int | None = None


class MnnBackend(GraphBackend):
    """A bundle's refinement stages as MNN modules, and the rest as ONNX Runtime sessions."""

    def __init__(self, bundle: Bundle, settings: EngineSettings) -> None:
        """Loads the bundle's engine."""
        super().__init__(bundle)
        at_hand = self.probe(settings.index)
        choose_precision(bundle, settings.precision, _ENGINE.precisions, "mnn on the CPU")
        found = find_engine(bundle, "mnn", at_hand, None, replace(settings, precision="auto"))
        _claim_threads(settings.threads)
        spec = bundle.manifest.model
        planned = _ENGINE.planned_roles(spec)
        unplanned = tuple(role for role in spec.roles if role not in planned)
        self._onnxruntime = OrtCpuBackend(bundle, replace(settings, precision="fp32"), roles=unplanned)
        self._modules = {role: _load(bundle, found, role, settings.threads) for role in planned}
        # A module serves one thread at a time, and one run takes all of MNN's threads.
        self._turn = threading.Lock()
        others = f"{self._onnxruntime.active.backend} {self._onnxruntime.active.version} for {' and '.join(unplanned)}"
        self.active = Active(
            "mnn", at_hand, "cpu", "fp32", settings.threads, reason=f"with the engine {found.folder}, and {others}"
        )

    @classmethod
    def probe(cls, index: int) -> str:
        """The version of the package; MNN itself is not imported, which takes a while."""
        try:
            at_hand = version("mnn")
        except PackageNotFoundError:
            raise BackendError(f"mnn is not installed; {_INSTALL}") from None
        OrtCpuBackend.probe(index)
        return at_hand

    def run(self, role: Role, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        if role not in self._modules:
            return self._onnxruntime.run(role, inputs, outputs)
        with self._turn:
            return self._modules[role].run(inputs, outputs)

    def close(self) -> None:
        self._onnxruntime.close()
        self._modules.clear()


class MnnModule:
    """A loaded plan."""

    def __init__(self, plan: bytes, interface: Interface, role: Role, threads: int) -> None:
        """Args:
        plan: The .mnn file's content.
        interface: What goes in and out.
        role: The graph.
        threads: CPU threads.

        Raises:
            BackendError: if MNN cannot be imported.
            EngineError: if MNN cannot load the plan, with what it says.
        """
        engine = import_engine()
        self._expr, self._inputs, self._role = engine.expr, interface.inputs, role
        self._outputs = [entry.name for entry in interface.outputs]
        settings = {"backend": "CPU", "numThread": threads, "precision": "normal", "memory": "normal", "power": "high"}
        with native_output() as message, _scratch_file(plan) as file:
            try:
                self._module = engine.nn.load_module_from_file(
                    str(file),
                    [entry.name for entry in self._inputs],
                    self._outputs,
                    runtime_manager=engine.nn.create_runtime_manager((settings,)),
                )
            except Exception as error:  # MNN's errors are SystemErrors, and numpy adds its own
                raise EngineError(f"mnn cannot load it ({message() or error})") from error
        for entry, taken in zip(self._inputs, self._module.get_info()["inputs"], strict=True):
            if tuple(taken.shape[1:]) != entry.shape[1:]:
                raise EngineError(
                    f"it is another graph's: {entry.name} is {taken.shape}, and {role} takes {list(entry.shape)}"
                )

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Runs the plan. One thread at a time.

        Raises:
            EngineError: if an input is not what the plan takes, or MNN fails.
        """
        given = [self._feed(entry.name, entry.shape, inputs) for entry in self._inputs]
        expr = self._expr
        try:
            made = dict(zip(self._outputs, self._module.onForward(given), strict=True))
            # Copies: MNN's next run writes into the same memory.
            return {name: np.array(expr.convert(made[name], expr.NCHW).read()) for name in outputs}
        except Exception as error:  # MNN's errors are SystemErrors, and it returns fewer values where it fails
            if not is_engines(error, "MNN"):
                raise
            raise EngineError(f"mnn failed in {self._role} ({error}); try fewer images at once") from error

    def _feed(self, name: str, shape: tuple[int | str, ...], inputs: Mapping[str, Array]) -> Any:
        array = inputs[name]
        if array.ndim != len(shape) or array.shape[1:] != shape[1:]:
            # MNN itself would read beyond the array.
            raise EngineError(f"{name} is {array.dtype}{list(array.shape)}, and {self._role} takes {list(shape)}")
        expr = self._expr
        # MNN has no int64, and lengths are small.
        kind, dtype = (expr.float, np.float32) if array.dtype == np.float32 else (expr.int, np.int32)
        return expr.const(np.ascontiguousarray(array, dtype), list(array.shape), expr.NCHW, kind)


@contextmanager
def _scratch_file(plan: bytes) -> Iterator[Path]:
    """A plan as a file: MNN loads its modules from files only."""
    try:
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "graph.mnn"
            file.write_bytes(plan)
            yield file
    except OSError as error:
        raise EngineError(
            f"mnn needs room for {len(plan):,} bytes in {tempfile.tempdir or 'a temporary folder'} ({error}); make room"
            " there, or set TMPDIR to another folder"
        ) from error


def import_engine() -> ModuleType:
    """The module MNN, which greets on the standard output when it is imported.

    Raises:
        BackendError: if it cannot be imported.
    """
    try:
        with native_output():
            import MNN
    except (ImportError, OSError) as error:  # OSError: the package without its libraries
        raise BackendError(f"mnn cannot be imported ({error}); {_INSTALL}") from error
    return cast(ModuleType, MNN)


def _claim_threads(threads: int) -> None:
    global _pool_owner
    if threads == 1:  # has no pool
        return
    if _pool_owner not in (None, os.getpid()):
        raise BackendError(
            "mnn's threads stayed in the process that this one was forked from; pass threads=1, which needs none"
        )
    _pool_owner = os.getpid()


def _load(bundle: Bundle, found: FoundEngine, role: Role, threads: int) -> MnnModule:
    entry = found.manifest.plan(role)
    assert entry is not None
    remedy = f"remove {found.folder} and build it again with: dmgan-export build-engine {bundle.path} --engine mnn"
    try:
        content = found.read(bundle, entry)
    except BundleError as error:
        raise EngineError(f"{error}, or {remedy}") from error
    interface = graph_interface(role, bundle.manifest.model, bundle.manifest.tokenizer.max_words)
    try:
        return MnnModule(content, interface, role, threads)
    except EngineError as error:
        raise EngineError(f"{bundle.path}/{found.folder}/{entry.file.path}: {error}; {remedy}") from error
