"""A network behind an operation on images, and roundings with a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from harness.ops import substituted

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


def nearest(v: torch.Tensor) -> torch.Tensor:
    """Round to the nearest integer, halves away from zero; no gradient."""
    v = v.detach()
    return v.sign() * (v.abs() + 0.5 + SLACK).floor()


def straight(v: torch.Tensor) -> torch.Tensor:
    """Round, with the gradient of the identity (Athalye et al. 2018, arXiv:1802.00420)."""
    return substituted(v, nearest(v))


def cubic(v: torch.Tensor) -> torch.Tensor:
    """Round, with the gradient of r + (v - r)^3 at the nearest integer r (Shin and Song 2017): 0 there, 3/4 between."""
    r = nearest(v)
    return substituted(r + (v - r) ** 3, r)


def clamped(v: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Cut to a range, with the gradient of the identity: most pixels of digits lie on its bounds."""
    return substituted(v, v.detach().clamp(low, high))
