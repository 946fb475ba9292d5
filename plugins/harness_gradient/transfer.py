"""DIM and TI-DIM, crafted on another network with resized inputs and smoothed gradients.

The model under attack is never queried.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from harness.api import UsageError
from harness.ops import ascend, cross_entropy, project_linf
from harness_gradient.momentum import guarded, momentum, step_size

if TYPE_CHECKING:
    from harness.api import AttackContext, Images, Labels, Oracle, ThreatModel


def transfer(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, step: float | None,
    decay: float, probability: float, enlarge: float, pad: float, labels: str, kernel: int = 1, nsig: float = 3.0,
) -> Images:  # fmt: skip
    """Run MI-FGSM on the surrogate, which sees a resized image with `probability`, drawn for each example and step.

    `kernel`: gradients are smoothed by a Gaussian of that odd size; 0 scales the published 15 of 299 pixels down, 1
    leaves them alone. `labels`: `predicted` by the surrogate on the clean image, as published, or `true`.
    """
    eps = threat.radius
    surrogate = ctx.surrogate()
    with torch.no_grad():
        attacked = surrogate(x).argmax(dim=1) if labels == "predicted" else y
    size = kernel or kernel_size(x.shape[2])
    if size < 1 or size % 2 == 0:
        raise UsageError(f"kernel={kernel} must be odd, or 0 for 15 pixels of 299")
    window = gaussian(size, nsig).to(x)
    draws = (ctx.noise(f"step:{done}") for done in range(steps))

    def loss(point: torch.Tensor) -> torch.Tensor:
        uniform = (next(draws).flatten(1)[:, :4] + 1) / 2
        return cross_entropy(surrogate(diversify(point, uniform, probability, enlarge, pad)), attacked)

    def normalise(gradient: torch.Tensor) -> torch.Tensor:
        return guarded(smooth(gradient, window) if size > 1 else gradient)

    project = project_linf(x, eps)
    return ascend(loss, x, step_size(step, eps, steps), project, steps, direction=momentum(decay, normalise))


def diversify(x: torch.Tensor, uniform: torch.Tensor, probability: float, enlarge: float, pad: float) -> torch.Tensor:
    """Enlarge to a random size, pad at a random place to the largest size, and shrink back, in a share of examples.

    All by nearest neighbours: H to H..H' - 1, to H' = enlarge * H rounded up, to H, so that every network can take it.
    `uniform` (n, 4) on [0, 1): coin, size, top, left.
    """
    coin, size, top, left = uniform.unbind(dim=1)
    down = _sampling(x.shape[2], enlarge, size, top).unsqueeze(1)
    across = _sampling(x.shape[3], enlarge, size, left).unsqueeze(1)
    covered = down.sum(dim=3).unsqueeze(3) * across.sum(dim=3).unsqueeze(2)
    changed = down @ x @ across.transpose(2, 3) + pad * (1 - covered)
    return torch.where((coin < probability).view(-1, 1, 1, 1), changed, x)


def _sampling(length: int, enlarge: float, size: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """One axis as matrices (n, length, length): a one where an output pixel takes an input pixel, no one in a pad."""
    full = max(math.ceil(enlarge * length - 1e-9), length + 1)
    drawn = length + (size * (full - length)).long()
    offset = (place * (full - drawn + 1)).long()
    pixels = torch.arange(length, device=size.device)
    inside = pixels * full // length - offset.unsqueeze(1)
    drawn = drawn.unsqueeze(1)
    source = torch.where((inside >= 0) & (inside < drawn), inside * length // drawn, -1)
    return (source.unsqueeze(2) == pixels).to(size)


def kernel_size(height: int) -> int:
    """Return the odd number next to 15 * height / 299, at least 3."""
    return max(3, 2 * round((15 * height / 299 - 1) / 2) + 1)


def gaussian(size: int, nsig: float) -> torch.Tensor:
    """Build the Gaussian window, float64 (size, size), out to `nsig` deviations and summing to 1."""
    density = torch.linspace(-nsig, nsig, size, dtype=torch.float64).square().div(-2).exp() / math.sqrt(2 * math.pi)
    window = torch.outer(density, density)
    return window / window.sum()


def smooth(gradient: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    """Convolve every channel with the window (odd size), zeros beyond the border."""
    channels, size = gradient.shape[1], len(window)
    return F.conv2d(gradient, window.expand(channels, 1, size, size), padding=size // 2, groups=channels)
