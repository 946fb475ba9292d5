"""Reduction of the bit depth: every value is rounded to one of 2^bits (feature squeezing, Xu et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from harness.api import UsageError
from harness_preprocessing.preprocessed import Preprocessed, Rounding, straight
from harness_preprocessing.preprocessed import cubic as cubic_rounding

if TYPE_CHECKING:
    from harness.api import Images


def wrap(network: nn.Module, *, bits: int, **training: Any) -> Preprocessed:
    """Wrap the trained network into the one that sees few bits.

    Raises:
        UsageError: for bits outside 1 to 8.
    """
    return Preprocessed(network, BitDepth(bits, straight))


def cubic(network: nn.Module, *, bits: int, **training: Any) -> Preprocessed:
    """Build the deployed network with the cubic gradient for the rounding."""
    return Preprocessed(network, BitDepth(bits, cubic_rounding))


class BitDepth(nn.Module):
    """Rounds values of [0, 1] to multiples of 1 / (2^bits - 1)."""

    def __init__(self, bits: int, rounding: Rounding) -> None:
        super().__init__()
        if bits != int(bits) or not 1 <= bits <= 8:
            raise UsageError(f"bits={bits}: give a whole number from 1 to 8")
        self.steps, self.rounding = 2 ** int(bits) - 1, rounding

    def forward(self, x: Images) -> Images:
        """Compute the rounded images (n, c, h, w)."""
        rounded: Images = self.rounding(x * self.steps) / self.steps
        return rounded
