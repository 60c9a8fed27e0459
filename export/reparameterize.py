"""Rewrites a generator by exact algebra: the same function with two thirds of the arithmetic.

Three rewrites, each of which leaves every output as it is (to 1e-5 in fp32):

- a BatchNorm in evaluation mode is an affine map, and goes into the weights before it;
- a convolution over [r, r], one response taken twice, is one over r with the two halves of its weights added;
- nearest x2 and then 3x3 reads each pixel up to four times: it is a 4x4 transposed convolution of stride 2, or four
  2x2 convolutions on the small grid, one for each of the four pixels that one becomes.

Three more that are exact were counted at the paper's widths, of 43.6 GFLOP an image, and do not pay. The LSTM's input
projection folded into the embedding saves 15 MFLOP a caption (0.04%) for a table of 22 MB in place of 6.5 MB (CUB's
5,450 words), and ONNX's LSTM would multiply its input by a matrix all the same. Of the first 4x4 layers, the linear one
(13 MFLOP) ends in a gate that nothing can be folded through, and the up block wastes 0.13 of its 0.54 GFLOP (0.3%) on
the border, which only a dense matrix of 4.3 GB avoids. The image heads of the first two stages take 0.07 GFLOP (0.16%):
left out where nobody asked for the images, they would need second files of those stages.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from dmgan_runtime.manifest import UpBlocks
from dmgan_train.models import GeneratorNetwork, RefinementStage
from dmgan_train.models.layers import ResidualBlock, UpBlock, transposed_kernel


def reparameterize(generator: GeneratorNetwork, up_blocks: UpBlocks) -> GeneratorNetwork:
    """Copies a generator and rewrites the copy for serving; it can no longer be trained.

    Args:
        generator: In evaluation mode.
        up_blocks: The form of its up blocks.

    Returns:
        The same function of the same arguments, but for `memories[k].features`, which hold the response once.
    """
    rewritten = fold_batch_norms(copy.deepcopy(generator)).requires_grad_(False)
    for stage in rewritten.refinements:
        assert isinstance(stage, RefinementStage)
        merge_repeated_response(stage)
    return decompose_up_blocks(rewritten, up_blocks).eval()


def fold_batch_norms(generator: GeneratorNetwork) -> GeneratorNetwork:
    """Folds every BatchNorm of a generator into the convolution or linear layer before it, in place."""
    for module in generator.modules():
        if isinstance(module, nn.Sequential):
            _fold_in(module)
    return generator


def _fold_in(layers: nn.Sequential) -> None:
    for index in range(1, len(layers)):
        before, norm = layers[index - 1], layers[index]
        if isinstance(norm, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
            layers[index - 1] = fuse_conv_bn_eval(before, norm)
        elif isinstance(norm, nn.BatchNorm1d) and isinstance(before, nn.Linear):
            layers[index - 1] = fuse_linear_bn_eval(before, norm)
        else:
            continue
        layers[index] = nn.Identity()


def merge_repeated_response(stage: RefinementStage) -> RefinementStage:
    """Makes a stage's memory return its response once, and its first block take it so, in place.

    A stage whose memory concatenates [o, r] repeats nothing and stays as it is.
    """
    if stage.memory.response == "gated":
        first = stage.residual[0]
        assert isinstance(first, ResidualBlock)
        stage.memory.response_copies = 1
        stage.residual[0] = MergedResidualBlock(first)
    return stage


class MergedResidualBlock(nn.Module):
    """A residual block over [r, r] that takes r."""

    def __init__(self, block: ResidualBlock) -> None:
        """Args:
        block: What it replaces.
        """
        super().__init__()
        self.block = copy.deepcopy(block.block)
        first = self.block[0]
        assert isinstance(first, nn.Conv2d)
        first.in_channels //= 2
        first.weight = nn.Parameter(sum_of_halves(first.weight.detach()))

    def forward(self, response: Tensor) -> Tensor:
        """Maps r [N, C, H, W] to [N, 2C, H, W]."""
        change = self.block(response)
        # Added half by half, so that [r, r] is never written to memory.
        return (change.unflatten(1, (2, -1)) + response.unsqueeze(1)).flatten(1, 2)


def sum_of_halves(weight: Tensor) -> Tensor:
    """The [out, C, ...] weights over r that equal [out, 2C, ...] over [r, r]."""
    first, second = weight.chunk(2, dim=1)
    return first + second


def decompose_up_blocks(generator: GeneratorNetwork, up_blocks: UpBlocks) -> GeneratorNetwork:
    """Replaces every up block of a generator by its other form, in place."""
    new = {"transposed": TransposedUpBlock, "phases": PhasedUpBlock}[up_blocks]
    for parent in list(generator.modules()):
        for name, child in parent.named_children():
            if isinstance(child, UpBlock):
                setattr(parent, name, new(child))
    return generator


class TransposedUpBlock(nn.Module):
    """An up block as one 4x4 transposed convolution of stride 2."""

    def __init__(self, block: UpBlock) -> None:
        """Args:
        block: What it replaces.
        """
        super().__init__()
        _, convolution, self.norm, self.glu = block
        assert isinstance(convolution, nn.Conv2d)
        self.convolution = nn.ConvTranspose2d(
            convolution.in_channels, convolution.out_channels, 4, stride=2, padding=1, bias=convolution.bias is not None
        )
        self.convolution.weight = nn.Parameter(transposed_kernel(convolution.weight.detach()).contiguous())
        self.convolution.bias = convolution.bias

    def forward(self, features: Tensor) -> Tensor:
        """Maps [N, C, H, W] to [N, C', 2H, 2W]."""
        return self.glu(self.norm(self.convolution(features)))


class PhasedUpBlock(nn.Module):
    """An up block as four 2x2 convolutions, interleaved: for engines whose integer kernels know only convolutions."""

    def __init__(self, block: UpBlock) -> None:
        """Args:
        block: What it replaces.
        """
        super().__init__()
        _, convolution, self.norm, self.glu = block
        assert isinstance(convolution, nn.Conv2d)
        self.phases = nn.ModuleList()
        for kernel in phase_kernels(convolution.weight.detach()):
            phase = nn.Conv2d(kernel.shape[1], kernel.shape[0], 2, bias=convolution.bias is not None)
            phase.weight = nn.Parameter(kernel)
            phase.bias = convolution.bias
            self.phases.append(phase)

    def forward(self, features: Tensor) -> Tensor:
        """Maps [N, C, H, W] to [N, C', 2H, 2W]."""
        parts = []
        for index, phase in enumerate(self.phases):
            below, right = divmod(index, 2)
            # Normalised and gated before the interleaving, when there are half as many values left to move.
            padded = F.pad(features, (1 - right, right, 1 - below, below))
            parts.append(self.glu(self.norm(phase(padded))))
        return F.pixel_shuffle(torch.stack(parts, dim=2).flatten(1, 2), 2)


def phase_kernels(weight: Tensor) -> list[Tensor]:
    """The four [out, in, 2, 2] kernels that equal nearest x2 and then [out, in, 3, 3].

    Returns:
        For the pixels at (0, 0), (0, 1), (1, 0) and (1, 1) of every 2x2 block, rows first.
    """
    rows = _pairs(weight, dim=2)
    return [kernel.contiguous() for row in rows for kernel in _pairs(row, dim=3)]


def _pairs(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Three taps over doubled pixels as two over the pixels themselves, for the first and the second of a pair."""
    first, middle, last = weight.unbind(dim)
    return torch.stack([first, middle + last], dim), torch.stack([first + middle, last], dim)
