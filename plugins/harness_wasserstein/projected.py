"""Projected gradient ascent over transport plans."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.api import UsageError
from harness_wasserstein.ascent import Direction, checked, feasible
from harness_wasserstein.window import Window, occupied

if TYPE_CHECKING:
    from harness.api import AttackContext, Images, Labels, Oracle, Result, ThreatModel

HALVINGS = 25


def wpgd(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, window: int, lr: float,
    momentum: float, price: float,
) -> Images | Result:  # fmt: skip
    """Move the plan along the gradient by `lr` and project it, `steps` times; then make the image feasible."""
    checked(steps, 1.0, momentum, price)
    if not lr > 0:
        raise UsageError(f"lr={lr:g} must be above 0")
    around = Window.odd(window)
    eps = threat.radius
    if eps == 0 or window == 1:
        return x
    project, direction = Projection(x, eps, around), Direction(model, x, y, "ce", momentum, price)
    plan = around.staying(x)
    for _ in range(steps):
        gain, useful = direction(around.push(plan))
        moved = project(plan + lr * around.pull(gain))
        plan = torch.where(useful.view(-1, 1, 1, 1, 1), moved, plan)
    return feasible(model, x, y, plan, around)


class Projection:
    """The Euclidean projection on the plans from `x` whose cost is at most eps * M.

    For a price of distance the row of each occupied pixel is projected on its simplex; the price is found by a fixed
    number of halvings, and its feasible end is used.
    """

    def __init__(self, x: torch.Tensor, eps: float, window: Window, halvings: int = HALVINGS) -> None:
        self.halvings = halvings
        self.budget = eps * x.sum(dim=(1, 2, 3))
        self.distances = window.distances(x)
        self._outside = ~window.inside(x)
        positions, self.supply = occupied(x)
        self._positions = positions.unsqueeze(1).expand(-1, len(self.distances), -1)

    def __call__(self, point: torch.Tensor) -> torch.Tensor:
        """Project points (n, c, k * k, h, w)."""
        n, c, offsets, h, w = point.shape
        flat = point.masked_fill(self._outside, -torch.inf).transpose(1, 2).reshape(n, offsets, c * h * w)
        rows = flat.gather(2, self._positions).transpose(1, 2).contiguous()
        low = self.supply.new_zeros(n)
        high = 2 * point.abs().amax(dim=(1, 2, 3, 4)) + self.supply.amax(dim=1)
        # Rows that are within the budget at no price stay at none: the bracket then ends at 0.
        high = torch.where(self._over(rows, low), high, low)
        for _ in range(self.halvings):
            middle = (low + high) / 2
            over = self._over(rows, middle)
            low, high = torch.where(over, middle, low), torch.where(over, high, middle)
        plan = torch.zeros_like(flat).scatter(2, self._positions, self._at(rows, high).transpose(1, 2))
        return plan.view(n, offsets, c, h, w).transpose(1, 2)

    def _over(self, rows: torch.Tensor, price: torch.Tensor) -> torch.Tensor:
        return (self._at(rows, price) * self.distances).sum(dim=(1, 2)) > self.budget

    def _at(self, rows: torch.Tensor, price: torch.Tensor) -> torch.Tensor:
        return simplex(rows - price.view(-1, 1, 1) * self.distances, self.supply)


def simplex(point: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Project rows (..., k) on non-negative ones with the sums `total` (...); entries of -inf become 0."""
    ordered = point.sort(dim=-1, descending=True).values
    excess = (ordered.cumsum(dim=-1) - total.unsqueeze(-1)) / torch.arange(1, point.shape[-1] + 1, device=point.device)
    support = (ordered > excess).sum(dim=-1, keepdim=True).clamp_min(1)
    return (point - excess.gather(-1, support - 1)).clamp_min(0)
