"""DeepFool as the published script crafts its set, where the attack of this harness is another.

Every image takes a step, those that are wrong already too, and the last iterate is kept where none of five steps
changed the label (`deepfool` keeps the clean image).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from harness.api import Images, Labels

DEEPFOOL_FACTOR, DEEPFOOL_STEPS = 0.1, 5
"""Share of the way to the nearest boundary that a step takes, for gradients that the script divides by the number of
classes: with ten, all of it."""


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
    return point.clamp(0.0, 1.0)


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


SCRIPTS: Mapping[str, Callable[[nn.Module, Images, Labels], Images]] = {"deepfool_script": deepfool_script}
REVISION = 1
"""Raised, with the revision of the defense, when an image of these sets changes."""
