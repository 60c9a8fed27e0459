"""The floor under a time: arithmetic and memory traffic that no engine gets around, at the machine's own rates."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from dmgan_runtime.manifest import GraphEntry, TensorEntry

_BYTES = {"float32": 4, "int64": 8}


class MachineRates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the machine was measured to do at most.

    Attributes:
        operations_per_s: By precision, of a large matrix product, a multiplication and an addition being two.
        bytes_per_s: Of a large copy, bytes read and bytes written both counted.
    """

    operations_per_s: dict[str, float]
    bytes_per_s: float


class Work(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run has to do at least.

    Attributes:
        operations: In convolutions, matrix products and recurrences.
        bytes: Of the weights, once, and of what goes in and out of each graph.
    """

    operations: int
    bytes: int

    def __add__(self, other: Work) -> Work:
        return Work(operations=self.operations + other.operations, bytes=self.bytes + other.bytes)


class Floor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The times, in seconds, under which a run cannot come.

    Attributes:
        operations_s: Its operations at the matrix rate of its precision.
        bytes_s: Its bytes at the memory bandwidth.
    """

    operations_s: float
    bytes_s: float

    @property
    def seconds(self) -> float:
        """The larger of the two: arithmetic and memory work at the same time."""
        return max(self.operations_s, self.bytes_s)


def floor_of(work: Work, precision: str, rates: MachineRates) -> Floor | None:
    """The floor of a run, or None if the rate of its precision was not measured."""
    rate = rates.operations_per_s.get(precision)
    if rate is None:
        return None
    return Floor(operations_s=work.operations / rate, bytes_s=work.bytes / rates.bytes_per_s)


def graph_work(graph: GraphEntry, operations: int, batch: int, unread: int = 0) -> Work:
    """What one graph has to do for a batch.

    What it computes between input and output need not leave a cache, so it is not counted.

    Args:
        graph: Its weights are nearly all of its file.
        operations: Of one image.
        batch: Images at once.
        unread: Bytes of the file that a run does not touch: the embeddings of other words.
    """
    tensors = sum(_bytes(tensor, batch) for tensor in (*graph.inputs, *graph.outputs))
    return Work(operations=operations * batch, bytes=max(0, graph.file.bytes - unread) + tensors)


def total(parts: Iterable[Work]) -> Work:
    """The work of several graphs, one after the other."""
    return sum(parts, start=Work(operations=0, bytes=0))


def _bytes(tensor: TensorEntry, batch: int) -> int:
    count = _BYTES[tensor.dtype]
    for side in tensor.shape:
        count *= batch if isinstance(side, str) else side
    return count
