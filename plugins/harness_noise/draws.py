"""Noise attacks: clean images plus noise, clamped to [0, 1], drawn several times for each image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.api import Result, UsageError
from harness.ops import misclassified, where_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.api import AttackContext, Images, Labels, Oracle, ThreatModel


def gaussian(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, sigma: float, draws: int
) -> Result:
    """Add normal noise of deviation `sigma`, on the [0, 1] scale, `draws` times.

    `last` is the first draw, `any` the first misclassified one.
    """
    if sigma < 0:
        raise UsageError(f"sigma={sigma} cannot be negative")
    return _worst(model, x, y, draws, lambda draw: x + sigma * ctx.noise(f"draw:{draw}", "normal"))


def uniform(model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, draws: int) -> Result:
    """Add noise drawn uniformly from the linf ball, `draws` times.

    `last` is the first draw, `any` the first misclassified one.
    """
    eps = threat.radius
    return _worst(model, x, y, draws, lambda draw: x + eps * ctx.noise(f"draw:{draw}"))


def _worst(model: Oracle, x: Images, y: Labels, draws: int, noisy: Callable[[int], Images]) -> Result:
    """`last` is the first draw, `any` the first misclassified one; the mean of `broken_draws` over `draws` is the mean
    error. Every draw is evaluated, whatever the others did."""
    if draws < 1:
        raise UsageError(f"draws={draws} must be at least 1")
    first, last = x, x
    broken_draws = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for draw in range(draws):
        point = noisy(draw).clamp(0.0, 1.0)
        last = point if draw == 0 else last
        with torch.no_grad():
            breaks = misclassified(model(point), y)
        first = where_rows(breaks & (broken_draws == 0), point, first)
        broken_draws += breaks
    return Result(last=last, any=first, details={"broken_draws": broken_draws})
