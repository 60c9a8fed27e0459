"""The dynamic memory: section 3.1 of the paper, eq. 3 to 9, and its ablations."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dmgan_runtime.manifest import ModelSpec


class MemoryOutput(NamedTuple):
    """What a pass through the memory gives.

    Attributes:
        features: [N, 2 Ng, R, R], the refined image features for the residual blocks.
        attention: [N, T, R, R], how much each pixel takes from each word; sums to 1 over T, 0 at padding.
        writing_gate: [N, T] in (0, 1), 0 at padding; None unless the writing is gated.
        response_gate: [N, 1, R, R] in (0, 1); None unless the response is gated.
    """

    features: Tensor
    attention: Tensor
    writing_gate: Tensor | None
    response_gate: Tensor | None


def _pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    """A 1x1 convolution over the words and the ReLU that the published code puts after it."""
    return nn.Sequential(nn.Conv1d(in_channels, out_channels, kernel_size=1), nn.ReLU())


def _full_precision(device: str) -> AbstractContextManager[object]:
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class DynamicMemory(nn.Module):
    """Writes the words into a memory, addresses it with every pixel, and refines the pixels with what it reads.

    Attributes:
        response_copies: How often the gated response is given, [r, r] as published; once to a rewritten block.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        words, image, memory = spec.text_features, spec.generator_channels, spec.memory_features
        self.writing = spec.memory_writing
        self.response = spec.memory_response
        self.response_copies = 2
        if self.writing == "none":
            self.project_words = nn.Conv1d(words, image, kernel_size=1, bias=False)
        else:
            self.word_memory = _pointwise(words, memory)
            self.key = _pointwise(memory, image)
            self.value = _pointwise(memory, image)
        if self.writing == "gated":
            self.image_memory = _pointwise(image, memory)
            self.word_gate = nn.Linear(words, 1, bias=False)
            self.image_gate = nn.Linear(image, 1, bias=False)
        if self.response == "gated":
            self.response_gate = nn.Conv2d(2 * image, 1, kernel_size=1)

    def forward(self, features: Tensor, word_features: Tensor, valid: Tensor) -> MemoryOutput:
        """Refines image features with the words.

        Args:
            features: r, the image features [N, Ng, R, R].
            word_features: w, [N, text_features, T].
            valid: [N, T] bool, True where there is a word; each row has at least one.
        """
        keys, values, writing_gate = self.write(features, word_features)
        attention = self.address(features, keys, valid)
        read = self.read(attention, values)
        refined, response_gate = self.respond(features, read)
        if writing_gate is not None:
            writing_gate = writing_gate * valid
        return MemoryOutput(refined, attention, writing_gate, response_gate)

    def write(self, features: Tensor, word_features: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Memory writing, eq. 7 and 8 (eq. 3 without the gate), then phi_K and phi_V.

        Args:
            features: r, [N, Ng, R, R].
            word_features: w, [N, text_features, T].

        Returns:
            The keys phi_K(m) and the values phi_V(m), each [N, Ng, T], and the writing gate [N, T] or None.
        """
        if self.writing == "none":
            projected = self.project_words(word_features)
            return projected, projected, None
        memory, gate = self.word_memory(word_features), None
        if self.writing == "gated":
            # Detached, as in the published code: the gate must not train the stage before it.
            # A sum over 16,384 pixels leaves the range of fp16.
            image = features.mean(dim=(2, 3), dtype=torch.float32).to(features.dtype).detach()
            gate = torch.sigmoid(self.word_gate(word_features.transpose(1, 2)).squeeze(2) + self.image_gate(image))
            weight = gate.unsqueeze(1)
            memory = memory * weight + self.image_memory(image.unsqueeze(2)) * (1 - weight)
        return self.key(memory), self.value(memory), gate

    def address(self, features: Tensor, keys: Tensor, valid: Tensor) -> Tensor:
        """Key addressing, eq. 4: softmax over the words of phi_K(m_i)^T r_j, without a scale.

        Args:
            features: r, [N, Ng, R, R].
            keys: [N, Ng, T].
            valid: [N, T] bool.

        Returns:
            The attention [N, T, R, R].
        """
        # Without a scale the logits grow large, and bf16 would round them to three digits.
        with _full_precision(features.device.type):
            wide = torch.promote_types(keys.dtype, torch.float32)
            logits = torch.bmm(keys.to(wide).transpose(1, 2), features.to(wide).flatten(2))
        # A finite constant, because an engine in half precision turns a row of -inf into NaN.
        logits = logits.masked_fill(~valid.unsqueeze(2), -1e4)
        attention = torch.softmax(logits, dim=1).to(features.dtype)
        return attention.unflatten(2, features.shape[2:])

    def read(self, attention: Tensor, values: Tensor) -> Tensor:
        """Value reading, eq. 5: o_j = sum over words of alpha_ij phi_V(m_i).

        Args:
            attention: [N, T, R, R].
            values: [N, Ng, T].

        Returns:
            o, [N, Ng, R, R].
        """
        return torch.bmm(values.to(attention.dtype), attention.flatten(2)).unflatten(2, attention.shape[2:])

    def respond(self, features: Tensor, read: Tensor) -> tuple[Tensor, Tensor | None]:
        """Response, eq. 9: g o + (1 - g) r, taken twice; eq. 6, [o, r], without the gate.

        Args:
            features: r, [N, Ng, R, R].
            read: o, [N, Ng, R, R].

        Returns:
            The refined features [N, 2 Ng, R, R] and the response gate [N, 1, R, R] or None.
        """
        if self.response == "concatenation":
            return torch.cat([read, features], dim=1), None
        gate = torch.sigmoid(self.response_gate(torch.cat([features, read], dim=1)))
        refined = read * gate + features * (1 - gate)
        return torch.cat([refined] * self.response_copies, dim=1), gate
