"""Stand-ins of a purification in several steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from harness.ops import substituted
from harness_tpap.iterated import Iterated, counted, step_of
from harness_tpap.purify import magnitude
from harness_tpap.stand_ins import Straight, softened

if TYPE_CHECKING:
    from harness.api import Images, Logits


def bpda(network: nn.Module, *, strength: object, steps: int, **training: Any) -> Straight:
    """Replace the gradient of the purification by the identity (BPDA)."""
    return Straight(Iterated(network, magnitude(strength), counted(steps)))


def unrolled(network: nn.Module, *, strength: object, steps: int, **training: Any) -> Unrolled:
    """Replace the signs of every step by tanh(g / mean |g|), differentiated through all steps."""
    return Unrolled(network, magnitude(strength), counted(steps), sharpness=1.0)


class Unrolled(nn.Module):
    """The purification in several steps with soft signs, differentiated through g; identity at every clamp."""

    def __init__(self, network: nn.Module, strength: float, steps: int, sharpness: float) -> None:
        super().__init__()
        self.network, self.strength, self.steps, self.sharpness = network, strength, steps, sharpness

    def forward(self, x: Images) -> Logits:
        """Compute the logits (n, k) of the softly purified images."""
        wanted = torch.is_grad_enabled() and x.requires_grad
        with torch.no_grad():
            predicted = self.network(x).argmax(dim=1)
        point = x
        for _ in range(self.steps):
            signs = self._signs(point, predicted, wanted)
            moved = point + step_of(self.strength, self.steps) * signs
            inside = (x + (moved - x).clamp(-self.strength, self.strength)).clamp(0.0, 1.0)
            point = substituted(moved, inside.detach())
        logits: Logits = self.network(point)
        return logits

    def _signs(self, point: Images, labels: torch.Tensor, wanted: bool) -> torch.Tensor:
        with torch.enable_grad():
            at = point if wanted else point.detach().requires_grad_(True)
            loss = F.cross_entropy(self.network(at), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, at, create_graph=wanted)
            return softened(gradient, self.sharpness)
