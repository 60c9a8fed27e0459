"""The networks as the graphs of a bundle. The wrappers keep what only tracing needs out of the models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dmgan_runtime.graphs import Interface, graph_interface
from dmgan_runtime.manifest import ModelSpec, Role
from dmgan_train.models import GeneratorNetwork, InitialStage, RefinementStage, TextEncoder, valid_words
from dmgan_train.models.conditioning import ConditioningAugmentation


class Graph(nn.Module):
    """A network with the interface of its role: it takes positional tensors and returns a tuple of tensors.

    Attributes:
        role: Which graph of a bundle it is.
        inputs: What it takes, in order.
        outputs: What it returns, in order.
    """

    def __init__(self, role: Role, spec: ModelSpec, max_words: int) -> None:
        super().__init__()
        self.role: Role = role
        self.inputs, self.outputs = graph_interface(role, spec, max_words)

    @property
    def interface(self) -> Interface:
        """What it takes and returns."""
        return Interface(self.inputs, self.outputs)

    def reference(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What PyTorch computes: the exported graph must equal this."""
        return self(*inputs)


def _onnx_gates(weight: Tensor) -> Tensor:
    """PyTorch stacks an LSTM's gates as i, f, g, o; ONNX as i, o, f, g."""
    i, f, g, o = weight.chunk(4)
    return torch.cat([i, o, f, g])


class TextEncoderGraph(Graph):
    """tokens, lengths -> word_features, sentence_feature.

    Packed sequences do not export, so the ONNX operator LSTM is emitted itself: it knows sequence lengths.
    """

    weights: Tensor
    recurrence: Tensor
    biases: Tensor

    def __init__(self, encoder: TextEncoder, spec: ModelSpec, max_words: int) -> None:
        super().__init__("text_encoder", spec, max_words)
        self.encoder = encoder
        self.features = spec.text_features
        weights = {name: value.detach() for name, value in encoder.lstm.named_parameters()}
        for name, parts in (
            ("weights", ("weight_ih_l0",)),
            ("recurrence", ("weight_hh_l0",)),
            ("biases", ("bias_ih_l0", "bias_hh_l0")),
        ):
            directions = [
                torch.cat([_onnx_gates(weights[part + direction]) for part in parts]) for direction in ("", "_reverse")
            ]
            self.register_buffer(name, torch.stack(directions))

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Only for tracing: in eager mode the operator gives zeros."""
        batch, words = tokens.shape
        half = self.features // 2
        embedded = self.encoder.embedding(tokens).transpose(0, 1)
        outputs, hidden, _ = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            (embedded, self.weights, self.recurrence, self.biases, lengths.to(torch.int32)),
            attrs={"hidden_size": half, "direction": "bidirectional"},
            dtypes=(embedded.dtype,) * 3,
            shapes=((words, 2, batch, half), (2, batch, half), (2, batch, half)),
            version=None,
        )
        word_features = outputs.permute(2, 1, 3, 0).reshape(batch, self.features, words)
        return word_features, hidden.transpose(0, 1).reshape(batch, self.features)

    def reference(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Runs the text encoder itself."""
        return tuple(self.encoder(*inputs))


class InitialGraph(Graph):
    """The first stage: sentence_feature, noise, condition_noise -> image, and features unless it is the last, too."""

    def __init__(
        self, conditioning: ConditioningAugmentation, stage: InitialStage, spec: ModelSpec, max_words: int
    ) -> None:
        super().__init__(spec.generator_roles[0], spec, max_words)
        self.conditioning = conditioning
        self.stage = stage

    def forward(self, sentence_feature: Tensor, noise: Tensor, condition_noise: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs, in the order of `outputs`."""
        condition = self.conditioning(sentence_feature, condition_noise)
        features = self.stage(condition.sample, noise)
        return (self.stage.to_image(features), *_passed_on(self, features))


class RefinementGraph(Graph):
    """previous_features, word_features, lengths -> image, features, attention, and the gates that the memory has.

    The last stage returns no features.
    """

    def __init__(self, role: Role, stage: RefinementStage, spec: ModelSpec, max_words: int) -> None:
        super().__init__(role, spec, max_words)
        self.stage = stage

    def forward(self, previous_features: Tensor, word_features: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs, in the order of `outputs`."""
        features, memory = self.stage(previous_features, word_features, valid_words(lengths, word_features.shape[2]))
        gates = [gate for gate in (memory.writing_gate, memory.response_gate) if gate is not None]
        return (self.stage.to_image(features), *_passed_on(self, features), memory.attention, *gates)


def _passed_on(graph: Graph, features: Tensor) -> tuple[Tensor, ...]:
    """The features, if there is a next stage that takes them."""
    return (features,) if any(entry.name == "features" for entry in graph.outputs) else ()


def build_graphs(text_encoder: TextEncoder, generator: GeneratorNetwork, max_words: int) -> Mapping[Role, Graph]:
    """The graphs of a bundle by role, in the order in which they run, in evaluation mode.

    Args:
        text_encoder: Trained.
        generator: Trained.
        max_words: Words of a caption that the graphs take.
    """
    spec = generator.spec
    graphs: list[Graph] = [
        TextEncoderGraph(text_encoder, spec, max_words),
        InitialGraph(generator.conditioning, generator.initial, spec, max_words),
    ]
    for role, stage in zip(spec.generator_roles[1:], generator.refinements, strict=True):
        assert isinstance(stage, RefinementStage)
        graphs.append(RefinementGraph(role, stage, spec, max_words))
    return {graph.role: graph.eval() for graph in graphs}
