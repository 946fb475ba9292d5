"""DDN: the direction follows the gradient, the norm follows success and failure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from harness.api import Result, UsageError
from harness.ops import where_rows
from harness_minimal.closest import Closest, beaten, length, standing

if TYPE_CHECKING:
    from harness.api import AttackContext, Images, Labels, Oracle, ThreatModel


def ddn(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, levels: int,
    gamma: float, init_norm: float,
) -> Result:  # fmt: skip
    """Take `steps` steps on spheres whose radius shrinks by `gamma` after success and grows by it after failure.

    Images are rounded to `levels` values for each pixel, 0 for no rounding. The nearest misclassified point counts,
    the one after the last step included.
    """
    if steps < 1 or levels < 0 or levels == 1:
        raise UsageError(f"steps={steps} must be at least 1, levels={levels} at least 2, or 0 for no rounding")
    closest, index = Closest(x), standing(model, x, y)
    if not len(index):
        return Result(last=x, any=x)
    begin, y = x[index], y[index]
    farthest = length(torch.maximum(begin, 1 - begin))
    radius = torch.full_like(farthest, init_norm)
    point = begin
    for step in range(steps):
        logits, gradient = _descend(model, point, y)
        won = beaten(logits, y)
        closest.offer(index, point, won)
        stride = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
        delta = point - begin + stride * _direction(gradient, ctx, step, index)
        radius = torch.minimum(radius * torch.where(won, 1 - gamma, 1 + gamma), farthest)
        delta = delta * (radius / length(delta).clamp_min(1e-12))[:, None, None, None]
        point = (begin + delta).clamp(0.0, 1.0)
        if levels:
            point = (point * (levels - 1)).round() / (levels - 1)
    with torch.no_grad():
        closest.offer(index, point, beaten(model(point), y))
    return Result(last=closest.points, any=closest.points)


def _descend(model: Oracle, point: Images, y: Labels) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and a gradient that points where the cross-entropy's does.

    With d = log sum of exp over the other classes, minus the true logit, the cross-entropy is log(1 + exp(d)): its
    gradient is that of d times a positive number. Only the direction is used, and d does not underflow.
    """
    point = point.detach().requires_grad_(True)
    logits = model(point)
    true = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, y.unsqueeze(1), float("-inf"))
    (gradient,) = torch.autograd.grad((others.logsumexp(dim=1) - true).sum(), point)
    return logits, gradient


def _direction(gradient: torch.Tensor, ctx: AttackContext, step: int, index: torch.Tensor) -> torch.Tensor:
    """The gradient at length 1 (l2); where there is none, a random direction."""
    largest = gradient.flatten(1).abs().amax(dim=1)
    usable = (largest > 0) & largest.isfinite()
    if not usable.all():
        gradient = where_rows(usable, gradient, ctx.noise(f"step:{step}", "normal")[index])
        largest = gradient.flatten(1).abs().amax(dim=1)
    # Divided by its largest entry first: the squares of tiny entries would underflow.
    scaled = gradient / largest[:, None, None, None]
    return scaled / length(scaled)[:, None, None, None]
