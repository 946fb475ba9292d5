"""Stand-ins of the purification: what an attacker who knows it differentiates instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from harness.ops import substituted
from harness_tpap.purify import Purified, drawn, labelled, magnitude

if TYPE_CHECKING:
    from harness.api import Images, Logits
    from harness_tpap.iterated import Iterated

VANISHED = 1e-25
"""A gradient of a smaller mean counts as zero: scaled up, its derivatives would leave the range of float32."""


def base(network: nn.Module, **params: Any) -> nn.Module:
    """Return the network without purification."""
    return network


def bpda(network: nn.Module, *, strength: object, pattern: str, **training: Any) -> Straight:
    """Replace the gradient of the purification by the identity (BPDA)."""
    return Straight(Purified(network, magnitude(strength), pattern))


def smooth(network: nn.Module, *, strength: object, pattern: str, sharpness: float = 10.0, **training: Any) -> Smooth:
    """Replace the signs by tanh(`sharpness` g / mean |g|), differentiated through g."""
    return Smooth(network, magnitude(strength), pattern, sharpness)


def smooth_1(network: nn.Module, **params: Any) -> Smooth:
    """Build `smooth` with sharpness 1."""
    return smooth(network, sharpness=1.0, **params)


def smooth_100(network: nn.Module, **params: Any) -> Smooth:
    """Build `smooth` with sharpness 100."""
    return smooth(network, sharpness=100.0, **params)


class Straight(nn.Module):
    """The deployed prediction; the gradient at the purified image is handed to the image (BPDA, identity).

    Athalye et al. 2018, arXiv:1802.00420. The identity passes the clamp too: most pixels of digits are 0 or 1.
    """

    def __init__(self, deployed: Purified | Iterated) -> None:
        super().__init__()
        self.deployed = deployed

    def forward(self, x: Images) -> Logits:
        """Compute the logits (n, k) of the purified images."""
        with torch.no_grad():
            purified = self.deployed.purify(x)
        logits: Logits = self.deployed.network(substituted(x, purified))
        return logits


class Smooth(nn.Module):
    """The purification with tanh(sharpness g / mean |g|) for sign(g), differentiated through g; identity at the clamp.

    The mean is each image's own.
    """

    def __init__(self, network: nn.Module, strength: float, pattern: str, sharpness: float) -> None:
        super().__init__()
        self.network, self.strength, self.pattern, self.sharpness = network, strength, pattern, sharpness

    def forward(self, x: Images) -> Logits:
        """Compute the logits (n, k) of the smoothly purified images."""
        moved = x + self.strength * self.direction(x)
        logits: Logits = self.network(substituted(moved, moved.detach().clamp(0.0, 1.0)))
        return logits

    def direction(self, x: Images) -> torch.Tensor:
        """Compute the soft signs (n, c, h, w), differentiable where the caller wants a gradient."""
        if self.pattern == "random_sign":
            return drawn(x)
        wanted = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            point = x if wanted else x.detach().requires_grad_(True)
            logits = self.network(point)
            label = labelled(logits.argmax(dim=1), self.pattern, logits.shape[1])
            loss = F.cross_entropy(logits, label, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, point, create_graph=wanted)
            soft = softened(gradient, self.sharpness)
        return -soft if self.pattern == "reversed" else soft


def softened(gradient: torch.Tensor, sharpness: float) -> torch.Tensor:
    """Compute tanh(`sharpness` g / mean |g|) of gradients (n, c, h, w), 0 where they vanish."""
    scale = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
    gone = scale < VANISHED
    return torch.tanh(sharpness * gradient.masked_fill(gone, 0.0) / scale.masked_fill(gone, 1.0))
