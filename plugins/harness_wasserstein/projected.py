"""Projected gradient ascent over transport plans."""

import torch

from harness.api import UsageError
from harness_wasserstein.ascent import Direction, checked, feasible
from harness_wasserstein.window import Window

HALVINGS = 25


def wpgd(model, x, y, threat, *, ctx, steps, window, lr, momentum, price):
    """Move the plan along the gradient by `lr` and project it, `steps` times; then make the final image feasible."""
    checked(steps, 1.0, momentum, price)
    if not lr > 0:
        raise UsageError(f"lr={lr:g} must be above 0")
    around = Window.odd(window)
    eps = float(threat.eps)
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

    For a price of distance each pixel's row is projected on its simplex; the price is found by a fixed number of
    halvings, and its feasible end is used.
    """

    def __init__(self, x: torch.Tensor, eps: float, window: Window, halvings: int = HALVINGS) -> None:
        self.x, self.halvings = x, halvings
        self.budget = eps * x.sum(dim=(1, 2, 3))
        self.distances = window.distances(x)[:, None, None]
        self._outside = ~window.inside(x)

    def __call__(self, point: torch.Tensor) -> torch.Tensor:
        """Project points (n, c, k * k, h, w)."""
        low = self.x.new_zeros(len(point))
        high = 2 * point.abs().amax(dim=(1, 2, 3, 4)) + self.x.amax(dim=(1, 2, 3))
        point = point.masked_fill(self._outside, -torch.inf)
        for _ in range(self.halvings):
            middle = (low + high) / 2
            over = self._cost(self._rows(point, middle)) > self.budget
            low, high = torch.where(over, middle, low), torch.where(over, high, middle)
        free = self._rows(point, torch.zeros_like(high))
        within = self._cost(free) <= self.budget
        return torch.where(within.view(-1, 1, 1, 1, 1), free, self._rows(point, high))

    def _cost(self, plan: torch.Tensor) -> torch.Tensor:
        return (plan * self.distances).sum(dim=(1, 2, 3, 4))

    def _rows(self, point: torch.Tensor, price: torch.Tensor) -> torch.Tensor:
        return simplex(point - price.view(-1, 1, 1, 1, 1) * self.distances, self.x.unsqueeze(2))


def simplex(point: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Project along dimension 2 on non-negative vectors with sum `total`; entries of -inf become 0."""
    ordered = point.sort(dim=2, descending=True).values
    count = torch.arange(1, point.shape[2] + 1, device=point.device).view(-1, 1, 1)
    excess = (ordered.cumsum(dim=2) - total) / count
    support = (ordered > excess).sum(dim=2, keepdim=True).clamp_min(1)
    return (point - excess.gather(2, support - 1)).clamp_min(0)
