"""Two sets as the published script crafts them, where the attacks of this harness are others.

`bim_script`: the attack `bim_ss` at the script's constants. `deepfool_script`: every image takes a step, those that are
wrong already too, and the last iterate is kept where none of five steps changed the label (`deepfool` keeps the clean
image).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from harness.api import Images, Labels
from harness.ops import ascend, cross_entropy

CIFAR_DEVIATIONS = (0.2023, 0.1994, 0.2010)
"""Standard deviations of CIFAR-10's channels, which the script divides steps by."""
BIM_SIZE, BIM_STEPS = 0.001, 5
DEEPFOOL_FACTOR, DEEPFOOL_STEPS = 0.1, 5
"""Share of the way to the nearest boundary that a step takes, for gradients that the script divides by the number of
classes: with ten, all of it."""


def bim_script(model: nn.Module, x: Images, y: Labels) -> Images:
    """Take a step of 0.001, then five of 0.001 over the deviation of the channel, along the plain sign."""

    def loss(point: Images) -> torch.Tensor:
        return cross_entropy(model(point), y)

    deviations = torch.tensor(CIFAR_DEVIATIONS).to(x)
    own = deviations if x.shape[1] == len(deviations) else deviations.mean()
    size = BIM_SIZE / own.view(1, -1, 1, 1)
    first = ascend(loss, x, BIM_SIZE, _clamped, 1)
    return ascend(loss, first, 1.0, _clamped, BIM_STEPS, direction=lambda gradient: size * gradient.sign())


def deepfool_script(model: nn.Module, x: Images, y: Labels) -> Images:
    """Step to the nearest boundary of the linearised classifier until an image is wrong, at most five times.

    Only the end is clamped.
    """
    point, left = x.clone(), torch.arange(len(x), device=x.device)
    for _ in range(DEEPFOOL_STEPS):
        point[left] += _to_nearest(model, point[left], y[left])
        with torch.no_grad():
            left = left[model(point[left]).argmax(dim=1) == y[left]]
        if not len(left):
            break
    return _clamped(point)


def _to_nearest(model: nn.Module, point: Images, y: Labels) -> torch.Tensor:
    """The step along the gradient of the logit difference that the linearised classifier crosses first.

    Zero where no difference has a gradient; the script divides by zero there.
    """
    point = point.detach().requires_grad_(True)
    logits = model(point)
    gaps = logits - logits.gather(1, y.unsqueeze(1))
    nearest, way = gaps.new_full((len(y),), float("inf")), torch.zeros_like(point)
    for rival in range(logits.shape[1]):
        (gradient,) = torch.autograd.grad(gaps[:, rival].sum(), point, retain_graph=rival < logits.shape[1] - 1)
        slope = gradient.flatten(1).norm(dim=1)
        distance = gaps[:, rival].detach().abs() / slope
        nearer = (y != rival) & (slope > 0) & (distance < nearest)
        nearest = torch.where(nearer, distance, nearest)
        unit = gradient / slope.clamp_min(torch.finfo(slope.dtype).tiny).view(-1, 1, 1, 1)
        way = torch.where(nearer.view(-1, 1, 1, 1), unit, way)
    length = DEEPFOOL_FACTOR * logits.shape[1] * nearest.masked_fill(nearest.isinf(), 0.0)
    step: torch.Tensor = length.view(-1, 1, 1, 1) * way
    return step


def _clamped(x: Images) -> Images:
    return x.clamp(0.0, 1.0)


SCRIPTS: Mapping[str, Callable[[nn.Module, Images, Labels], Images]] = {
    "bim_script": bim_script, "deepfool_script": deepfool_script,
}  # fmt: skip
REVISION = 1
"""Raised, with the revision of the defense, when an image of these sets changes."""
