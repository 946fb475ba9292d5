"""Minimisers of many independent problems at once, one for each row."""

from __future__ import annotations

from collections.abc import Callable

import torch

Objective = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
DECREASE = 1e-4
TRIALS = 20
STANDSTILL = 1e-9
CURVATURE = 1e-10


def lbfgs(objective: Objective, start: torch.Tensor, steps: int, history: int) -> torch.Tensor:
    """Minimise by limited-memory BFGS with backtracking, each row of `start` (n, d) on its own.

    `objective(points (k, d), rows (k,))` gives values (k,) and gradients (k, d); `rows` says which of the n problems
    the points belong to. Each call evaluates one trial point of every unfinished row: a row whose trial is accepted
    turns to its next direction while others still halve their step. A row finishes after `steps` accepted trials, with
    the first that decreases nothing, or when `TRIALS` halvings in turn decrease too little.
    """
    active = torch.arange(len(start), device=start.device)
    value, gradient = objective(start, active)
    point, pairs = start.clone(), Pairs(start.shape[0], start.shape[1], history, start)
    direction, slope = _descent(gradient, pairs, active)
    length, accepted = torch.ones_like(value), torch.zeros_like(active)
    tries = torch.zeros_like(active)
    finished = ~(slope < 0)
    while len(active := active[~finished[active]]):
        trial = point[active] + length[active, None] * direction[active]
        trial_value, trial_gradient = objective(trial, active)
        enough = trial_value <= value[active] + DECREASE * length[active] * slope[active]
        length[active] *= 0.5
        tries[active] += 1
        finished[active] = tries[active] >= TRIALS
        moved = active[enough]
        if not len(moved):
            continue
        trial, trial_value, trial_gradient = trial[enough], trial_value[enough], trial_gradient[enough]
        pairs.add(moved, trial - point[moved], trial_gradient - gradient[moved])
        still = value[moved] - trial_value < STANDSTILL * (1 + value[moved].abs())
        point[moved], value[moved], gradient[moved] = trial, trial_value, trial_gradient
        direction[moved], slope[moved] = _descent(trial_gradient, pairs, moved)
        length[moved], tries[moved] = 1.0, 0
        accepted[moved] += 1
        finished[moved] = still | (accepted[moved] >= steps) | ~(slope[moved] < 0)
    return point


def adam(objective: Objective, start: torch.Tensor, steps: int, rate: float) -> torch.Tensor:
    """Minimise by Adam with its usual constants, elementwise, so that rows do not mix."""
    rows = torch.arange(len(start), device=start.device)
    point, mean, square = start, torch.zeros_like(start), torch.zeros_like(start)
    for done in range(1, steps + 1):
        gradient = objective(point, rows)[1].nan_to_num(0.0, 0.0, 0.0)
        mean = torch.lerp(mean, gradient, 0.1)
        square = torch.lerp(square, gradient.square(), 0.001)
        point = point - rate * (mean / (1 - 0.9**done)) / ((square / (1 - 0.999**done)).sqrt() + 1e-8)
    objective(point, rows)
    return point


class Pairs:
    """The last accepted moves of each row, and the changes of gradient along them, in ring buffers of `size`."""

    def __init__(self, n: int, d: int, size: int, like: torch.Tensor) -> None:
        self.size = size
        self.moves, self.changes = like.new_zeros(size, n, d), like.new_zeros(size, n, d)
        self.inverse = like.new_zeros(size, n)
        self.count = torch.zeros(n, dtype=torch.long, device=like.device)

    def add(self, rows: torch.Tensor, moves: torch.Tensor, changes: torch.Tensor) -> None:
        """Keep the pairs of positive curvature, in place."""
        curvature = (moves * changes).sum(dim=1)
        good = curvature > CURVATURE
        rows, place = rows[good], self.count[rows[good]] % self.size
        self.moves[place, rows], self.changes[place, rows] = moves[good], changes[good]
        self.inverse[place, rows] = 1 / curvature[good]
        self.count[rows] += 1

    def solve(self, rows: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Multiply the approximate inverse Hessian by the gradient (two-loop recursion); the identity without pairs."""
        result, factors = gradient, []
        count = self.count[rows]
        for back in range(min(self.size, int(count.max()))):
            place = (count - 1 - back) % self.size
            inverse = torch.where(back < count, self.inverse[place, rows], 0.0)
            factor = inverse * (self.moves[place, rows] * result).sum(dim=1)
            result = result - factor[:, None] * self.changes[place, rows]
            factors.append((place, inverse, factor))
        if factors:
            newest = factors[0][0]
            scale = 1 / (self.inverse[newest, rows] * self.changes[newest, rows].square().sum(dim=1))
            result = result * torch.where(count > 0, scale, 1.0)[:, None]
        for place, inverse, factor in reversed(factors):
            again = inverse * (self.changes[place, rows] * result).sum(dim=1)
            result = result + (factor - again)[:, None] * self.moves[place, rows]
        return result


def _descent(gradient: torch.Tensor, pairs: Pairs, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions and the slopes along them; steepest descent of length 1 without pairs or where they point uphill."""
    direction = -pairs.solve(rows, gradient)
    slope = (gradient * direction).sum(dim=1)
    steepest = -gradient / gradient.norm(dim=1, keepdim=True)
    use = (pairs.count[rows] == 0) | ~(slope < 0)
    direction = torch.where(use[:, None], steepest, direction)
    return direction, (gradient * direction).sum(dim=1)
