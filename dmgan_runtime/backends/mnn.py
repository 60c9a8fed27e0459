"""MNN on the CPU: the refinement stages from the engine that lies in a bundle, the other graphs by ONNX Runtime.

MNN computes convolutions by Winograd's algorithm, with a fraction of the multiplications: less exact, and faster than
what ONNX Runtime and OpenVINO do on a CPU that has fp32 instructions only (docs/mnn.md).
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from dmgan_runtime.backends.base import Active, Tensor, choose_precision
from dmgan_runtime.backends.engines import FoundEngine, find_engine
from dmgan_runtime.backends.native_output import native_output
from dmgan_runtime.backends.onnxruntime import OnnxRuntimeBackend
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.engine_manifest import PLANNED_ROLES
from dmgan_runtime.errors import BackendError, BundleError, EngineError
from dmgan_runtime.interface import Interface, graph_interface
from dmgan_runtime.manifest import GENERATOR_ROLES, ROLES, Role

_INSTALL = 'install it with: pip install "dmgan[mnn]"'
# MNN has one pool of threads in a process, and a forked one inherits it without the threads: the first run there would
# wait for them for ever.
_pool_owner: int | None = None


class MnnBackend:
    """A bundle's refinement stages as MNN modules. See `Backend` for the methods."""

    def __init__(self, bundle: Bundle, *, index: int, precision: str, threads: int, named: bool = False) -> None:
        """Loads the bundle's engine. See `BackendClass`."""
        at_hand = self.probe(index)
        choose_precision(bundle, precision, ("fp32",), "mnn on the CPU")
        found = find_engine(bundle, "mnn", at_hand, None, "auto")
        _claim_threads(threads)
        planned = PLANNED_ROLES["mnn"]
        rest = tuple(role for role in ROLES if role not in planned)
        self._rest = OnnxRuntimeBackend(bundle, index=0, precision="fp32", threads=threads, roles=rest)
        self._modules = {role: _load(bundle, found, role, threads) for role in planned}
        # A module serves one thread at a time, and one run takes all of MNN's threads.
        self._turn = threading.Lock()
        others = f"{self._rest.active.backend} {self._rest.active.version} for {' and '.join(rest)}"
        self.active = Active(
            "mnn", at_hand, "cpu", "fp32", threads, reason=f"with the engine {found.folder}, and {others}"
        )

    @classmethod
    def probe(cls, index: int) -> str:
        """See `BackendClass.probe`. MNN itself is not imported, which takes a while."""
        try:
            at_hand = version("mnn")
        except PackageNotFoundError:
            raise BackendError(f"mnn is not installed; {_INSTALL}") from None
        OnnxRuntimeBackend.probe(index)
        return at_hand

    def run(self, role: Role, feeds: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """See `Backend.run`; a tensor is a numpy array. The last stage's features cannot be had."""
        if role not in self._modules:
            return self._rest.run(role, feeds, outputs)
        with self._turn:
            return self._modules[role].run(feeds, outputs)

    def to_host(self, tensor: Tensor) -> npt.NDArray[np.float32]:
        """See `Backend.to_host`."""
        return cast("npt.NDArray[np.float32]", tensor)

    def close(self) -> None:
        """Nothing to do: a module is freed with its last reference, so a run in another thread may finish."""


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
        names = [entry.name for entry in interface.outputs]
        if role == GENERATOR_ROLES[-1]:
            names.remove("features")  # nobody reads them, and laying them out takes MNN as long as a convolution
        self._outputs = names
        settings = {"backend": "CPU", "numThread": threads, "precision": "normal", "memory": "normal", "power": "high"}
        with native_output() as said, tempfile.TemporaryDirectory() as place:
            file = Path(place) / f"{role}.mnn"  # MNN's modules are loaded from files only
            file.write_bytes(plan)
            try:
                self._module = engine.nn.load_module_from_file(
                    str(file),
                    [entry.name for entry in self._inputs],
                    names,
                    runtime_manager=engine.nn.create_runtime_manager((settings,)),
                )
            except Exception as error:  # MNN's errors are SystemErrors, and numpy adds its own
                raise EngineError(f"mnn cannot load it ({said() or error})") from error

    def run(self, feeds: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
        """Runs the plan. One thread at a time.

        Raises:
            EngineError: if an input is not what the plan takes, an output is not had, or MNN fails.
        """
        values = self._module.onForward([self._feed(entry.name, entry.shape, feeds) for entry in self._inputs])
        if len(values) != len(self._outputs):
            raise EngineError(f"mnn failed in {self._role}; try fewer images at once")
        made = dict(zip(self._outputs, values, strict=True))
        if missing := sorted(set(outputs) - set(made)):
            raise EngineError(f"mnn does not compute {', '.join(missing)} in {self._role}; use another backend")
        expr = self._expr
        # Copies: MNN's next run writes into the same memory.
        return {name: np.array(expr.convert(made[name], expr.NCHW).read()) for name in outputs}

    def _feed(self, name: str, shape: tuple[int | str, ...], feeds: Mapping[str, Tensor]) -> Any:
        array = feeds[name]
        if array.ndim != len(shape) or array.shape[1:] != shape[1:]:
            # MNN itself would read beyond the array.
            raise EngineError(f"{name} is {array.dtype}{list(array.shape)}, and {self._role} takes {list(shape)}")
        expr = self._expr
        # MNN has no int64, and lengths are small.
        kind, dtype = (expr.float, np.float32) if array.dtype == np.float32 else (expr.int, np.int32)
        return expr.const(np.ascontiguousarray(array, dtype), list(array.shape), expr.NCHW, kind)


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
