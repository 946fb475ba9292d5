"""Frank-Wolfe ascent: every step moves a share of the plan to the best plan for the gradient (arXiv:2008.02883)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.api import Result, UsageError
from harness.ops import where_rows
from harness_wasserstein.ascent import Direction, checked, feasible, readings
from harness_wasserstein.linear import BestPlan
from harness_wasserstein.plan import Plan
from harness_wasserstein.window import Window

if TYPE_CHECKING:
    from harness.api import AttackContext, Images, Labels, Oracle, ThreatModel

HALVINGS = 30


def fwa(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, window: int,
    gamma: float, loss: str, momentum: float, price: float,
) -> Images | Result:  # fmt: skip
    """Ascend over plans with a price on room, then make the final image feasible: only that one counts.

    Without momentum and price it is the published ascent, whose plans pile up mass above 1 and lose most of their gain
    when they are made feasible.
    """
    checked(steps, gamma, momentum, price)
    around = Window.odd(window)
    eps = threat.radius
    if eps == 0 or window == 1:
        return x
    direction = Direction(model, x, y, loss, momentum, price)
    plan = _ascend(direction, BestPlan(x, eps, around, gamma, HALVINGS), x, around, steps)
    return feasible(model, x, y, plan, around)


def published(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, low: int, high: int,
    gamma: float, halvings: int,
) -> Images | Result:  # fmt: skip
    """Run the same ascent and return the image as it is, values above 1 included."""
    checked(steps, gamma)
    if not low <= 0 <= high:
        raise UsageError(f"offsets from low={low} to high={high} must include 0")
    eps = threat.radius
    if eps == 0 or low == high:
        return x
    window = Window(low, high)
    plan = _ascend(Direction(model, x, y, "ce"), BestPlan(x, eps, window, gamma, halvings), x, window, steps)
    image = window.push(plan)
    moved = (plan.flatten(1) != window.staying(x).flatten(1)).any(dim=1)
    return Result(last=where_rows(moved, image, x), evidence=Plan(plan, low, high), details=readings(model, y, image))


def _ascend(direction: Direction, best: BestPlan, x: Images, window: Window, steps: int) -> torch.Tensor:
    """The plan after `steps` steps of size 2 / (t + 2). Images without a gradient stay where they are."""
    plan = window.staying(x)
    for step in range(steps):
        gain, useful = direction(window.push(plan))
        size = (2 / (step + 2)) * useful.float()
        plan = torch.lerp(plan, best(window.pull(gain)), size.view(-1, 1, 1, 1, 1))
    return plan
