"""Half precision: the same graphs computed in fp16, with fp32 at their edges."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from export.graphs import Graph

LARGEST_HALF = float(torch.finfo(torch.float16).max)


class HalfGraph(Graph):
    """A graph whose weights and arithmetic are fp16 and whose inputs and outputs are fp32.

    What cannot be had in fp16 stays in fp32 inside the networks themselves: the memory's logits and their softmax,
    which have no scale and pass 65,504 easily, and the mean over the pixels that opens the writing gate.
    """

    def __init__(self, graph: Graph) -> None:
        """Args:
        graph: One of the generators'; the text encoder has no fp16 form, because engines refuse an fp16 LSTM that
            knows sequence lengths, and it takes less than a hundredth of the time.
        """
        torch.nn.Module.__init__(self)
        self.role, self.inputs, self.outputs = graph.role, graph.inputs, graph.outputs
        self.network = copy.deepcopy(graph).half()

    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, ...]:
        """See the graph's own: every generator's takes three tensors."""
        halves = (_to_half(value) if value.is_floating_point() else value for value in (first, second, third))
        return tuple(value.float() for value in self.network(*halves))


def _to_half(value: Tensor) -> Tensor:
    # Beyond the largest number fp16 would have infinities, and the first difference of two of them is no number.
    return value.clamp(-LARGEST_HALF, LARGEST_HALF).half()
