"""Total variation minimisation (Rudin, Osher and Fatemi 1992), by accelerated projected gradients on its dual."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from harness.api import UsageError
from harness.ops import substituted
from harness_preprocessing.preprocessed import Preprocessed, clamped

if TYPE_CHECKING:
    from harness.api import Images

LIPSCHITZ = 8.0
"""The largest eigenvalue of the differences times their adjoint stays below it, whatever the size of the image."""


def wrap(network: nn.Module, *, weight: float, iterations: int, **training: Any) -> Preprocessed:
    """Wrap the trained network into the one that sees smoothed images.

    Raises:
        UsageError: for a negative weight, or no iterations.
    """
    return Preprocessed(network, TotalVariation(weight, iterations))


def identity(network: nn.Module, *, weight: float, iterations: int, **training: Any) -> Preprocessed:
    """Build the deployed network, through whose smoothing the gradient passes unchanged (BPDA)."""
    return Preprocessed(network, Straight(TotalVariation(weight, iterations)))


class Straight(nn.Module):
    """An operation with its own values and the gradient of the identity."""

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Images) -> Images:
        """Compute the images (n, c, h, w) of the operation."""
        with torch.no_grad():
            value = self.operation(x)
        return substituted(x, value)


class TotalVariation(nn.Module):
    """Minimises |z - x|^2 / 2 + weight * sum |differences of neighbours| over z, for each channel.

    FISTA on the dual (Beck and Teboulle 2009), a fixed number of steps and no randomness, for the whole batch at once;
    whoever differentiates goes through all of its steps.
    """

    def __init__(self, weight: float, iterations: int) -> None:
        super().__init__()
        if not (math.isfinite(weight) and weight >= 0) or iterations != int(iterations) or iterations < 1:
            raise UsageError(
                f"weight={weight}, iterations={iterations}: give a weight of at least 0 and at least 1 iteration"
            )
        self.weight, self.iterations = float(weight), int(iterations)

    def forward(self, x: Images) -> Images:
        """Compute the smoothed images (n, c, h, w), in [0, 1]."""
        if not self.weight:
            return x
        dual = looked = (torch.zeros_like(down(x)), torch.zeros_like(across(x)))
        momentum = 1.0
        for _ in range(self.iterations):
            z = x - self.weight * adjoint(*looked)
            rate = 1 / (LIPSCHITZ * self.weight)
            new = (looked[0] + rate * down(z)).clamp(-1, 1), (looked[1] + rate * across(z)).clamp(-1, 1)
            after = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            ahead = (momentum - 1) / after
            looked = new[0] + ahead * (new[0] - dual[0]), new[1] + ahead * (new[1] - dual[1])
            dual, momentum = new, after
        return clamped(x - self.weight * adjoint(*dual), 0.0, 1.0)


def down(z: torch.Tensor) -> torch.Tensor:
    """Compute the differences (n, c, h - 1, w) of each pixel and the one above it."""
    return z[:, :, 1:] - z[:, :, :-1]


def across(z: torch.Tensor) -> torch.Tensor:
    """Compute the differences (n, c, h, w - 1) of each pixel and the one to its left."""
    return z[:, :, :, 1:] - z[:, :, :, :-1]


def adjoint(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Apply the transpose of both differences; gives (n, c, h, w)."""
    first = F.pad(rows, (0, 0, 1, 0)) - F.pad(rows, (0, 0, 0, 1))
    return first + F.pad(columns, (1, 0)) - F.pad(columns, (0, 1))
