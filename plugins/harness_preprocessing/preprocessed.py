"""A network behind an operation on images, and roundings with a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from harness.api import Images, Logits

Rounding = Callable[[torch.Tensor], torch.Tensor]

SLACK = 1e-3
"""Values this close below a half are rounded away from zero too: else rounding in another batch could turn a half."""


class Preprocessed(nn.Module):
    """A network that predicts on what `operation` makes of the images (n, c, h, w)."""

    def __init__(self, network: nn.Module, operation: nn.Module) -> None:
        super().__init__()
        self.network, self.operation = network, operation

    def forward(self, x: Images) -> Logits:
        """Compute the logits (n, k) of the preprocessed images."""
        logits: Logits = self.network(self.operation(x))
        return logits


class Substituted(torch.autograd.Function):
    """An operation with the value of its second argument and the gradient of its first."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return a copy of the value."""
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Hand the gradient to the first argument."""
        return gradient, None


def nearest(v: torch.Tensor) -> torch.Tensor:
    """Round to the nearest integer, halves away from zero; no gradient."""
    v = v.detach()
    return v.sign() * (v.abs() + 0.5 + SLACK).floor()


def straight(v: torch.Tensor) -> torch.Tensor:
    """Round, with the gradient of the identity (Athalye et al. 2018, arXiv:1802.00420)."""
    rounded: torch.Tensor = Substituted.apply(v, nearest(v))
    return rounded


def cubic(v: torch.Tensor) -> torch.Tensor:
    """Round, with the gradient of r + (v - r)^3 at the nearest integer r (Shin and Song 2017): 0 there, 3/4 between."""
    r = nearest(v)
    rounded: torch.Tensor = Substituted.apply(r + (v - r) ** 3, r)
    return rounded


def clamped(v: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Cut to a range, with the gradient of the identity: most pixels of digits lie on its bounds."""
    cut: torch.Tensor = Substituted.apply(v, v.detach().clamp(low, high))
    return cut
