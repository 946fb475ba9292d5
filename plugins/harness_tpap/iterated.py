"""Purification by other attacks than one step: several steps away from the predicted label, or normal noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from harness.api import UsageError
from harness_tpap.purify import input_gradient, magnitude, within

if TYPE_CHECKING:
    from harness.api import Images, Labels, Logits

REACH = 2.5
"""All steps together are this many times the strength, as Madry et al. 2018 have it; one step is the strength."""


def wrap(network: nn.Module, *, strength: object, steps: int, **training: Any) -> Iterated:
    """Wrap the trained network into one that is purified in several steps.

    Raises:
        UsageError: for a strength outside [0, 1], or no steps.
    """
    return Iterated(network, magnitude(strength), counted(steps))


def wrap_noisy(network: nn.Module, *, strength: object, **training: Any) -> Noisy:
    """Wrap the trained network into one that sees images with noise.

    Raises:
        UsageError: for a strength outside [0, 1].
    """
    return Noisy(network, magnitude(strength))


class Iterated(nn.Module):
    """A network that predicts on the image after PGD away from the label that it predicts, within `strength` (linf).

    It starts from the image itself, so nothing is random; with one step it is `Purified` with its own pattern. The
    change is a constant to whoever differentiates; the clamp to [0, 1] is differentiated as in `Purified`.
    """

    def __init__(self, network: nn.Module, strength: float, steps: int) -> None:
        super().__init__()
        self.network, self.strength, self.steps = network, strength, steps

    def forward(self, x: Images) -> Logits:
        """Compute the logits (n, k) of the purified images."""
        logits: Logits = self.network(self.purify(x))
        return logits

    def purify(self, x: Images) -> Images:
        """Compute the images (n, c, h, w) that the network predicts on."""
        with torch.no_grad():
            predicted = self.network(x).argmax(dim=1)
        return within(x + offset(self.network, x, predicted, self.strength, self.steps))


class Noisy(nn.Module):
    """A network that predicts on the image plus N(0, strength^2), as large in the mean square as signs, clamped.

    Drawn from torch's global generator on the CPU, so that draws are the same on every device.
    """

    def __init__(self, network: nn.Module, strength: float) -> None:
        super().__init__()
        self.network, self.strength = network, strength

    def forward(self, x: Images) -> Logits:
        """Compute the logits (n, k) of one draw for each image."""
        logits: Logits = self.network(within(x + self.strength * torch.randn(x.shape).to(x)))
        return logits


def counted(steps: int) -> int:
    """Read a number of steps.

    Raises:
        UsageError: for anything but a whole number of at least 1.
    """
    if steps != int(steps) or steps < 1:
        raise UsageError(f"steps={steps}: give a whole number of at least 1")
    return int(steps)


def step_of(strength: float, steps: int) -> float:
    """Compute the size of one step."""
    return strength * min(1.0, REACH / steps)


def offset(network: nn.Module, x: Images, labels: Labels, strength: float, steps: int) -> torch.Tensor:
    """Compute the change (n, c, h, w) of PGD up the cross-entropy of the labels (n,), before the clamp to [0, 1]."""
    change = torch.zeros_like(x)
    for _ in range(steps):
        point = (x.detach() + change).clamp(0.0, 1.0)
        signs = input_gradient(network, point, lambda logits: labels).sign()
        change = (change + step_of(strength, steps) * signs).clamp(-strength, strength)
    return change
