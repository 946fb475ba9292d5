"""Test-time purification: one FGSM step away from the label that the network predicts (TPAP)."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from harness.api import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.api import Images, Labels, Logits


def wrap(network: nn.Module, *, strength: object, pattern: str, **training: Any) -> Purified:
    """Wrap the trained network into the purified one that is deployed.

    Raises:
        UsageError: for a strength outside [0, 1].
    """
    return Purified(network, magnitude(strength), pattern)


class Purified(nn.Module):
    """A network that predicts on the image after one step of `strength` along a pattern of signs, clamped to [0, 1].

    The pattern is a constant to whoever differentiates, as the sign is almost everywhere. The clamp is differentiated,
    with 1 at its bounds: torch says 0 or 1 there, by version, and most pixels of digits are 0 or 1.
    """

    def __init__(self, network: nn.Module, strength: float, pattern: str) -> None:
        super().__init__()
        self.network, self.strength, self.pattern = network, strength, pattern

    def forward(self, x: Images) -> Logits:
        """Compute the logits (n, k) of the purified images."""
        logits: Logits = self.network(self.purify(x))
        return logits

    def purify(self, x: Images) -> Images:
        """Compute the images (n, c, h, w) that the network predicts on."""
        return within(x + self.strength * direction(self.network, x, self.pattern))


def within(moved: torch.Tensor) -> Images:
    """Clamp to [0, 1], with derivative 1 at the bounds and 0 beyond them."""
    return moved.where((moved >= 0) & (moved <= 1), moved.detach().clamp(0.0, 1.0))


def magnitude(strength: object) -> float:
    """Read a strength, `1/5` or a number, in [0, 1].

    Raises:
        UsageError: for anything else.
    """
    try:
        found = float(Fraction(str(strength)))
    except (ValueError, ZeroDivisionError):
        found = -1.0
    if not 0 <= found <= 1:
        raise UsageError(f"strength={strength}: give a number from 0 to 1, on the scale of pixels, as in 8/255")
    return found


def direction(network: nn.Module, x: torch.Tensor, pattern: str) -> torch.Tensor:
    """Compute what `strength` is multiplied by (n, c, h, w): signs, and 0 where the gradient is 0.

    `predicted`: up the cross-entropy of the predicted label; `reversed`: down; `next_label`: up that of the class
    after the predicted one; `random_sign`: signs drawn once, the same for every image.
    """
    if pattern == "random_sign":
        return drawn(x)
    found = input_gradient(network, x, lambda logits: labelled(logits.argmax(dim=1), pattern, logits.shape[1])).sign()
    return -found if pattern == "reversed" else found


def labelled(predicted: torch.Tensor, pattern: str, classes: int) -> torch.Tensor:
    """Return the label (n,) that a pattern is made for, given the predicted one."""
    return (predicted + 1) % classes if pattern == "next_label" else predicted


def drawn(x: torch.Tensor) -> torch.Tensor:
    """Draw random signs (1, c, h, w) from seed 0: the same for every image and every call."""
    bits = torch.randint(0, 2, (1, *x.shape[1:]), generator=torch.Generator().manual_seed(0))
    return (2.0 * bits - 1.0).to(x)


def input_gradient(network: nn.Module, x: torch.Tensor, label: Callable[[Logits], Labels]) -> torch.Tensor:
    """Compute the gradient (n, c, h, w) of each image's cross-entropy against `label(logits)`.

    It works under any gradient mode of the caller.

    A sum over the batch, not the mean of the published code, whose division could underflow in a large batch alone.
    """
    with torch.inference_mode(False), torch.enable_grad():
        point = x.clone().detach().requires_grad_(True)
        logits = network(point)
        loss = F.cross_entropy(logits, label(logits.detach()), reduction="sum")
        return torch.autograd.grad(loss, point)[0]
