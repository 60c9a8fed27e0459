"""What a backend is: one engine that runs a bundle's graphs on one device, in one precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dmgan_runtime.errors import BackendError
from dmgan_runtime.manifest import Precision, Role

Tensor: TypeAlias = Any
"""A tensor where the backend keeps it: a numpy array on the CPU, a device buffer elsewhere."""


@dataclass(frozen=True)
class Active:
    """What was chosen to run a bundle.

    Attributes:
        backend: The engine, for example `onnxruntime`.
        version: The engine's version.
        device: Where it runs, for example `cpu`.
        precision: Of the graphs.
        threads: How many CPU threads compute one operator.
        reason: Why these were chosen, in words.
    """

    backend: str
    version: str
    device: str
    precision: Precision
    threads: int
    reason: str


class Backend(Protocol):
    """Runs graphs. Many threads may call it at once.

    Attributes:
        active: What it is.
    """

    active: Active

    def run(self, role: Role, feeds: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """Runs one graph.

        Args:
            role: The graph.
            feeds: Every input by name: numpy arrays, or tensors that an earlier run returned.
            outputs: The names of the outputs that are wanted.

        Returns:
            Those outputs, where the backend keeps them; `to_host` fetches one.

        Raises:
            EngineError: if the engine fails.
        """
        ...

    def to_host(self, tensor: Tensor) -> npt.NDArray[np.float32]:
        """A tensor that `run` returned, as an array."""
        ...

    def close(self) -> None:
        """Frees the engine. A run that has begun may finish."""
        ...


def choose(kind: str, asked: str, available: Sequence[str], where: str) -> str:
    """Picks what was asked for, or for "auto" the first of what is available.

    Args:
        kind: What is chosen, as the argument's name: `backend`, `device` or `precision`.
        asked: What the user asked for.
        available: What can be had, best first.
        where: What offers these, for the message.

    Raises:
        BackendError: if it cannot be had. It never falls back to another.
    """
    if asked == "auto":
        return available[0]
    if asked not in available:
        choices = " or ".join(f"{kind}={name!r}" for name in (*available, "auto"))
        raise BackendError(f"{kind} {asked!r} is not available: {where} offers {', '.join(available)}; pass {choices}")
    return asked
