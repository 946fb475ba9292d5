"""Clean images plus noise, clamped to [0, 1], drawn several times for each image."""

import torch

from harness.api import Result, UsageError
from harness.ops import misclassified, where_rows


def gaussian(model, x, y, threat, *, ctx, sigma, draws):
    if sigma < 0:
        raise UsageError(f"sigma={sigma} cannot be negative")
    return _worst(model, x, y, draws, lambda draw: x + sigma * ctx.noise(f"draw:{draw}", "normal"))


def uniform(model, x, y, threat, *, ctx, draws):
    eps = float(threat.eps)
    return _worst(model, x, y, draws, lambda draw: x + eps * ctx.noise(f"draw:{draw}"))


def _worst(model, x, y, draws: int, noisy) -> Result:
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
