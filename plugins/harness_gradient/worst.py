"""The worst of several runs: PGD with several targets, step sizes or starts, on logits or averaged over draws."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import torch

from harness.api import Result, UsageError
from harness.ops import ascend, where_rows
from harness_gradient.balls import ball, offsets
from harness_gradient.first_adversarial import FirstAdversarial
from harness_gradient.targets import aims, objective


def worst(
    model, x, y, threat, *, ctx, steps, loss, logits, start, restarts, eot,
    step=None, shares="", target="none", targets=1,
):  # fmt: skip
    """Run once for each start, step size and target in turn; an example leaves when a run ends in a misclassification.

    `last` is the end of the first such run, else of the first run; `any` the first misclassified point of all runs.
    `step`: one step size, or `shares`: several as shares of eps, `1/20:1/4`. `eot`: how often the model is asked at
    each point (see `FirstAdversarial`). A single run's end is not evaluated: the harness judges it.
    """
    sizes = [step] if step is not None else [share * float(threat.eps) for share in _shares(shares)]
    if min(steps, restarts, targets, eot) < 1:
        raise UsageError("steps, restarts, targets and eot must be at least 1")
    eps = float(threat.eps)
    aimed = None
    if target != "none":
        with torch.no_grad():
            aimed = aims(model(x), y, target, targets, ctx)
    turns = list(product(sizes, [None] if aimed is None else aimed.unbind(dim=1)))
    last, first = x.clone(), x.clone()
    ended, broken = (torch.zeros(len(x), dtype=torch.bool, device=x.device) for _ in range(2))
    for restart in range(restarts):
        begin = x if start == "none" else (x + eps * offsets(threat.kind, ctx, restart)).clamp(0.0, 1.0)
        for turn, (size, aim) in enumerate(turns):
            left = (~ended).nonzero().squeeze(1)
            if not len(left):
                break
            own = y[left]
            climbs = objective(loss, logits, own, None if aim is None else aim[left])
            trail, around = FirstAdversarial(model, x[left], own, climbs, eot), ball(threat.kind, x[left], eps)
            end = ascend(trail.loss, begin[left], size, around.project, steps, direction=around.direction)
            if len(turns) * restarts == 1:
                return Result(last=end, any=trail.first)
            wins = trail.breaks(end)
            first[left] = where_rows(trail.broken & ~broken[left], trail.first, first[left])
            last[left] = where_rows(wins | (restart + turn == 0), end, last[left])
            broken[left] |= trail.broken
            ended[left] = wins
    return Result(last=last, any=first)


def _shares(text: object) -> list[float]:
    """Read `1/20:1/10` or a single number."""
    try:
        found = [float(Fraction(part)) for part in str(text).split(":")]
    except (ValueError, ZeroDivisionError):
        found = []
    if not found or min(found) <= 0:
        raise UsageError(f"shares={text}: write step sizes as shares of eps, as in 1/20:1/4")
    return found
