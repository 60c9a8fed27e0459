"""What is compared: PyTorch as a user would run it, and every engine that can serve the bundle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol, TypeVar, get_args

import msgspec

from dmgan_runtime.backends.registry import ENGINES, find_engine_row
from dmgan_runtime.errors import SettingsError
from dmgan_runtime.manifest import Arithmetic

Form = Literal["", "eager", "channels_last", "compile"]
TORCH = "torch"

_FORMS = {"eager": "PyTorch eager", "channels_last": "PyTorch channels-last", "compile": "torch.compile"}
# On a GPU PyTorch rounds the inputs of convolutions to TF32 unless it is told not to: "fp32" here tells it.
_TORCH_PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "tf32", "fp16")}


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """One engine in one precision on one device.

    Attributes:
        engine: `torch`, or a backend of `dmgan_runtime`.
        form: How PyTorch runs the network; empty for the other engines.
        precision: What it computes in; `tf32` is PyTorch's own default on a GPU.
        device: `cpu` or `cuda:N`.
        threads: CPU threads for one operator.
    """

    engine: str
    precision: str
    device: str
    threads: int
    form: Form = ""

    @property
    def name(self) -> str:
        """Names it in files and on the command line, for example `torch-eager-fp32`."""
        return "-".join(filter(None, (self.engine, self.form, self.precision)))

    @property
    def label(self) -> str:
        """Names it for people."""
        return _FORMS[self.form] if self.form else find_engine_row(self.engine).label


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Named = TypeVar("Named", bound=_Named)

REFERENCE = "torch-eager-fp32"
"""What every image and every time is compared with."""


def candidates(device: str, threads: int) -> list[Contender]:
    """Everything that may be had on a kind of device, the reference first; opening one shows whether it can.

    Args:
        device: `cpu` or `cuda:N`.
        threads: CPU threads for one operator.
    """
    kind = device.partition(":")[0]
    common = {"device": device, "threads": threads}
    torch = [
        Contender(engine=TORCH, form=form, precision=precision, **common)  # type: ignore[arg-type]
        for precision in _TORCH_PRECISIONS[kind]
        for form in _FORMS
        # A GPU without TF32 is no other machine for channels-last and torch.compile, and each takes minutes.
        if (kind, precision) != ("cuda", "fp32") or form == "eager"
    ]
    served = [
        Contender(engine=engine.backend, precision=precision, **common)  # type: ignore[arg-type]
        for engine in ENGINES
        if engine.device == kind
        for precision in _arithmetics()
    ]
    return torch + served


def select(found: Sequence[Named], names: Iterable[str], reference: str = REFERENCE) -> list[Named]:
    """The contenders of some names, and the reference; all if there are no names.

    Raises:
        SettingsError: if there is none of a name.
    """
    wanted = set(names)
    known = [each.name for each in found]
    if unknown := sorted(wanted - set(known)):
        raise SettingsError(f"there is no contender {unknown[0]!r} here; there are: {', '.join(known)}")
    return [each for each in found if not wanted or each.name in wanted | {reference}]


def _arithmetics() -> tuple[str, ...]:
    """Every precision that a backend can be asked for; one that it does not compute in, it refuses by name."""
    precisions: list[str] = []
    for part in get_args(Arithmetic):
        precisions += get_args(part) or [part]
    return tuple(precisions)
