"""Half precision: computes the same graphs in fp16, with fp32 at their edges."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dmgan_train.models import RefinementStage
from dmgan_train.models.conditioning import Condition, ConditioningAugmentation
from dmgan_train.models.dynamic_memory import DynamicMemory, MemoryOutput
from export.graphs import Graph, InitialGraph, RefinementGraph

# So far under the largest number of fp16, 65,504, that rounding on the way there does not pass it.
LARGEST = 60_000.0

_PRODUCTS = frozenset(
    {
        torch.ops.aten.convolution.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten.mm.default,
        torch.ops.aten.bmm.default,
    }
)


class HalfGraph(Graph):
    """A graph whose weights and arithmetic are fp16 and whose inputs and outputs are fp32, finite whatever goes in.

    What costs next to nothing and leaves the range of fp16 stays in fp32: conditioning augmentation with its
    exponential, memory writing, and the memory's logits and their softmax, which have no scale.

    A sum of products that passes 65,504 is infinite, and the next one makes NaN of it. So what goes into a convolution
    is clipped to the largest number from which its weights cannot get there, in whatever order an engine adds them up
    (of trained models at least 75 times what comes in). A refinement stage's first convolutions need no clipping of
    their own: they read a mean of two tensors that were clipped for them at the stage's edge.
    """

    def __init__(self, graph: Graph) -> None:
        """Args:
        graph: One of the rewritten generators'; the text encoder has no fp16 form, because engines refuse an fp16
            LSTM that knows sequence lengths, and it takes less than a hundredth of the time.
        """
        nn.Module.__init__(self)
        self.role, self.inputs, self.outputs = graph.role, graph.inputs, graph.outputs
        self.network = copy.deepcopy(graph).half()
        self.first_limit = LARGEST
        if isinstance(graph, RefinementGraph):
            assert isinstance(self.network, RefinementGraph)
            self.first_limit = _first_limit(graph.stage)
            self.network.stage.memory = _HalfMemory(graph.stage.memory, self.first_limit)  # type: ignore[assignment]
            stage = self.network.stage
            _clip_inputs(stage.residual[0], skip_first=True)
            for part in (*list(stage.residual)[1:], stage.upsample, stage.to_image):
                _clip_inputs(part)
        elif isinstance(graph, InitialGraph):
            assert isinstance(self.network, InitialGraph)
            self.network.conditioning = _FullConditioning(graph.conditioning)  # type: ignore[assignment]
            _clip_inputs(self.network.stage)

    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, ...]:
        """Computes the graph's outputs; every generator's graph takes three tensors."""
        inputs = [_to_half(first, self.first_limit)]
        inputs += [_to_half(value, LARGEST) if value.is_floating_point() else value for value in (second, third)]
        return tuple(value.float() for value in self.network(*inputs))


def _to_half(value: Tensor, limit: float) -> Tensor:
    return value.clamp(-limit, limit).half()


Product = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def _limit(layer: Product) -> float:
    """How large a layer's input may be without its output, nor any part of the sums in it, passing `LARGEST`."""
    weight = layer.weight.detach().double().abs()
    if isinstance(layer, nn.ConvTranspose2d):
        # [in, out, 4, 4] at stride 2: each output pixel sees every second tap in both directions.
        totals = weight.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).sum(dim=(0, 2, 4))
    else:
        totals = weight.flatten(1).sum(dim=1)
    bias = 0.0 if layer.bias is None else float(layer.bias.detach().abs().max())
    return min(LARGEST, (LARGEST - bias) / max(float(totals.max()), 1.0))


def _first_limit(stage: RefinementStage) -> float:
    """The limit of all layers that read the memory's response, or what it is a mean of."""
    first = next(layer for layer in stage.residual.modules() if isinstance(layer, nn.Conv2d))
    gate = [stage.memory.response_gate] if stage.memory.response == "gated" else []
    return min(_limit(layer) for layer in (first, *gate))


def _clip_inputs(part: nn.Module, skip_first: bool = False) -> None:
    layers = [
        (parent, name, child)
        for parent in part.modules()
        for name, child in parent.named_children()
        if isinstance(child, Product)
    ]
    for parent, name, layer in layers[skip_first:]:
        setattr(parent, name, _Clipped(layer))


class _Clipped(nn.Module):
    def __init__(self, layer: Product) -> None:
        super().__init__()
        self.layer = layer
        self.limit = _limit(layer)

    def forward(self, value: Tensor) -> Tensor:
        return self.layer(value.clamp(-self.limit, self.limit))


class _FullConditioning(nn.Module):
    """Conditioning augmentation in fp32."""

    def __init__(self, conditioning: ConditioningAugmentation) -> None:
        super().__init__()
        self.conditioning = copy.deepcopy(conditioning)

    def forward(self, sentence_feature: Tensor, condition_noise: Tensor) -> Condition:
        condition = self.conditioning(sentence_feature.float(), condition_noise.float())
        return Condition(*(_to_half(value, LARGEST) for value in condition))


class _HalfMemory(nn.Module):
    """A memory whose slots are written and addressed in fp32, and read in fp16."""

    def __init__(self, memory: DynamicMemory, limit: float) -> None:
        super().__init__()
        self.memory = copy.deepcopy(memory)
        self.limit = limit
        if memory.response == "gated":
            self.memory.response_gate.half()

    def forward(self, features: Tensor, word_features: Tensor, valid: Tensor) -> MemoryOutput:
        memory, pixels = self.memory, features.float()
        keys, values, writing_gate = memory.write(pixels, word_features.float())
        attention = memory.address(pixels, keys, valid)
        read = memory.read(attention.half(), _to_half(values, self.limit))
        refined, response_gate = memory.respond(features, read)
        if writing_gate is not None:
            writing_gate = writing_gate * valid
        return MemoryOutput(refined, attention, writing_gate, response_gate)


class RoundedProducts(TorchDispatchMode):
    """Computes convolutions and matrix products of halves in fp32 and rounds what they give, as GPUs do.

    PyTorch's own take forty times as long as fp32's on a CPU without fp16 arithmetic. Every other operator on halves
    rounds as it is.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for each operator."""
        if func not in _PRODUCTS or args[0].dtype != torch.float16:
            return func(*args, **(kwargs or {}))
        return func(*(value.float() if isinstance(value, Tensor) else value for value in args)).half()
