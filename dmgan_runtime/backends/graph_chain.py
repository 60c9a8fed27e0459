"""The graphs for batches of one size on a GPU, with the tensors that lead from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeAlias, TypeVar, cast

from dmgan_runtime.graphs import Interface, run_graphs
from dmgan_runtime.manifest import Role, TensorEntry

Tensor = TypeVar("Tensor")
Bound = TypeVar("Bound")
Allocate: TypeAlias = Callable[[tuple[int, ...], str], Tensor]
"""Makes a tensor of a shape and a dtype on the GPU."""
Bind: TypeAlias = Callable[[Role, Mapping[str, Tensor], Mapping[str, Tensor]], Bound]
"""Makes a graph ready to run on tensors: its role, all its inputs and all its outputs by name."""


class GraphChain(Generic[Tensor, Bound]):
    """Graphs that are bound to tensors when they are first asked for, each after those before it.

    So a batch that ends early, at text features or at a smaller resolution, shares the first graphs of the chain with
    those that go on, and costs no memory for the rest.

    Attributes:
        inputs: The tensors that no graph makes, by name.
    """

    def __init__(
        self,
        interfaces: Mapping[Role, Interface],
        size: int,
        allocate: Allocate[Tensor],
        bind: Bind[Tensor, Bound],
    ) -> None:
        """Args:
        interfaces: All graphs of the chain, in the order in which they run.
        size: Of a batch.
        allocate: Makes the tensors.
        bind: Binds a graph to them.
        """
        self._interfaces, self._size, self._allocate, self._bind = interfaces, size, allocate, bind
        self._outputs: dict[Role, dict[str, Tensor]] = {}
        self._bound: dict[Role, Bound] = {}
        made = {entry.name for interface in interfaces.values() for entry in interface.outputs} | {"previous_features"}
        taken = dict.fromkeys(entry for interface in interfaces.values() for entry in interface.inputs)
        self.inputs = self._new_tensors(entry for entry in taken if entry.name not in made)

    def __getitem__(self, role: Role) -> Bound:
        if role not in self._bound:
            # Each time from the start: an iterator that is kept half-way is closed by the garbage collector if it comes
            # across a batch that was abandoned, even if the end of that batch gives the chain back.
            for reached, _ in run_graphs(self._bind_once, self._interfaces, self.inputs):
                if reached == role:
                    break
        return self._bound[role]

    def _bind_once(self, role: Role, inputs: Mapping[str, Tensor], _: Sequence[str]) -> dict[str, Tensor]:
        if role not in self._bound:
            self._outputs[role] = self._new_tensors(self._interfaces[role].outputs)
            self._bound[role] = self._bind(role, inputs, self._outputs[role])
        return self._outputs[role]

    def _new_tensors(self, entries: Iterable[TensorEntry]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for entry in entries:
            shape = (self._size, *cast("tuple[int, ...]", entry.shape[1:]))
            tensors[entry.name] = self._allocate(shape, entry.dtype)
        return tensors
