"""Classes that a network does not have, and answers with minus infinity: a finite logit below all others instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from harness.evaluation.isolation import isolated
from harness.networks import settle

if TYPE_CHECKING:
    from harness.types import Flags, Images, Logits

BELOW = 100.0
"""How far below the lowest finite logit: exp(-100) is nothing beside 1, and no attack's loss overflows."""
TRIED = 8


class WithoutAbsent(nn.Module):
    """A network whose `absent` classes, bool (k,), get a finite logit wherever it answers minus infinity for them.

    Predictions, margins, the cross-entropy and their gradients are those of the network. Minus infinity for another
    class, plus infinity and NaN stay what they are.
    """

    absent: Flags

    def __init__(self, network: nn.Module, absent: Flags) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("absent", absent)

    def forward(self, x: Images) -> Logits:
        """Compute the logits (n, k)."""
        logits: Logits = self.network(x)
        lowest = logits.detach().masked_fill(self.absent, float("inf")).amin(dim=1, keepdim=True)
        return torch.where(self.absent & logits.isneginf(), lowest - BELOW, logits)


def without_absent(network: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Module, list[int]]:
    """Wrap a network that answers minus infinity for some class on every image tried: black, white and noise.

    Returns what to use from now on, and those classes. A network that answers no logits for images of this shape is
    returned as it is: why it cannot be used is for its judge to say. Puts the network into eval mode, frozen.
    """
    with isolated("absent"):
        noise = torch.rand(TRIED, *shape)
        try:
            with torch.no_grad():
                logits = settle(network)(torch.cat([torch.zeros(1, *shape), torch.ones(1, *shape), noise]))
        except Exception:
            return network, []
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        return network, []
    absent = logits.isneginf().all(dim=0)
    if absent.all() or not absent.any():
        return network, []
    return WithoutAbsent(network, absent), absent.nonzero().flatten().tolist()
