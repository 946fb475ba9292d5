"""The worst of several PGD runs, over target classes, step sizes and starts."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import TYPE_CHECKING

import torch

from harness.api import Result, UsageError
from harness.ops import ascend, where_rows
from harness_gradient.balls import ball, offsets
from harness_gradient.first_adversarial import FirstAdversarial
from harness_gradient.targets import objective, target_classes

if TYPE_CHECKING:
    from harness.api import AttackContext, Images, Labels, Oracle, ThreatModel


def worst(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, loss: str,
    logits: str, start: str, restarts: int, eot: int, step: float | None = None, shares: object = "",
    target: str = "none", targets: int = 1,
) -> Result:  # fmt: skip
    """Run PGD for each start, step size and target class in turn; an example leaves at its first success.

    `last` is the end of the first such run, else of the first run; `any` the first misclassified point of all runs.
    `step`: one step size, or `shares`: several as shares of eps, `1/20:1/4`. `eot`: how often the model is asked at
    each point (see `FirstAdversarial`). A single run's end is not evaluated: the harness judges it.
    """
    sizes = [step] if step is not None else [share * threat.radius for share in _shares(shares)]
    if min(steps, restarts, targets, eot) < 1:
        raise UsageError("steps, restarts, targets and eot must be at least 1")
    eps = threat.radius
    classes = None
    if target != "none":
        with torch.no_grad():
            classes = target_classes(model(x), y, target, targets, ctx)
    turns = list(product(sizes, [None] if classes is None else classes.unbind(dim=1)))
    last, first = x.clone(), x.clone()
    ended, broken = (torch.zeros(len(x), dtype=torch.bool, device=x.device) for _ in range(2))
    for restart in range(restarts):
        begin = x if start == "none" else (x + eps * offsets(threat.kind, ctx, restart)).clamp(0.0, 1.0)
        for turn, (size, towards) in enumerate(turns):
            left = (~ended).nonzero().squeeze(1)
            if not len(left):
                break
            own = y[left]
            goal = objective(loss, logits, own, None if towards is None else towards[left])
            run, around = FirstAdversarial(model, x[left], own, goal, eot), ball(threat.kind, x[left], eps)
            end = ascend(run.loss, begin[left], size, around.project, steps, direction=around.direction)
            if len(turns) * restarts == 1:
                return Result(last=end, any=run.first)
            wins = run.breaks(end)
            first[left] = where_rows(run.broken & ~broken[left], run.first, first[left])
            last[left] = where_rows(wins | (restart + turn == 0), end, last[left])
            broken[left] |= run.broken
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
