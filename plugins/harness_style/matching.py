"""Gradient descent with momentum on the distance between the features of an image and of another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch

from harness.api import NotApplicable, Result, UsageError
from harness.ops import misclassified, project_linf, where_rows
from harness_style.choice import style_images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.api import AttackContext, Images, Labels, Oracle, ThreatModel

PUBLISHED = ("layer1", "layer4")


def nst_ss(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, lr: float,
    momentum: float, weight_decay: float,
) -> Images:  # fmt: skip
    """Match features as published: pixels may leave [0, 1] on the way, and are clamped once at the end."""
    iterates = _descend(model, x, y, ctx, lambda point: point, steps, lr, momentum, weight_decay)
    *_, last = iterates
    return last.clamp(0.0, 1.0)


def nst_b(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, lr: float,
    momentum: float, weight_decay: float,
) -> Result:  # fmt: skip
    """Match features inside the linf ball.

    `last` is the final iterate, `any` the first misclassified one.
    """
    project = project_linf(x, threat.radius)
    first, broken, last = x, torch.zeros(len(x), dtype=torch.bool, device=x.device), x
    for last in _descend(model, x, y, ctx, project, steps, lr, momentum, weight_decay):
        with torch.no_grad():
            new = misclassified(model(last), y) & ~broken
        first, broken = where_rows(new, last, first), broken | new
    return Result(last=last, any=first)


def _descend(
    model: Oracle, x: Images, y: Labels, ctx: AttackContext, project: Callable[[Images], Images], steps: int, lr: float,
    momentum: float, weight_decay: float,
) -> Iterator[Images]:  # fmt: skip
    """Yield the point after each step. An example whose step is not finite stands still and loses its momentum."""
    if steps < 1:
        raise UsageError(f"steps={steps} must be at least 1")
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
        wanted = _outer_stages(ctx.features(style_images(ctx, y, classes)))
    point, velocity = x.detach(), torch.zeros_like(x)
    for _ in range(steps):
        point.requires_grad_(True)
        stages = _outer_stages(ctx.features(point))
        distances = (
            (stage - target).square().flatten(1).mean(dim=1) for stage, target in zip(stages, wanted, strict=True)
        )
        (gradient,) = torch.autograd.grad(cast("torch.Tensor", sum(distances)).sum(), point)
        point = point.detach()
        step = momentum * velocity + gradient + weight_decay * point
        velocity = where_rows(step.isfinite().flatten(1).all(dim=1), step, torch.zeros_like(step))
        point = project(point - lr * velocity)
        yield point


def _outer_stages(stages: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The two stages of the publication where the network has both, else its first and its last."""
    if not stages:
        raise NotApplicable("the model names no stages")
    names = list(stages)
    return [stages[name] for name in (PUBLISHED if set(PUBLISHED) <= stages.keys() else (names[0], names[-1]))]
