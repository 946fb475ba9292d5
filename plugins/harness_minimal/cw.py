"""The l2 attack of Carlini and Wagner: Adam on squared distance plus c times the hinged margin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.api import Result, UsageError
from harness.ops import margin, where_rows
from harness_minimal.adam import Adam
from harness_minimal.closest import Closest, beaten, standing

if TYPE_CHECKING:
    from harness.api import AttackContext, Flags, Images, Labels, Oracle, ThreatModel

INSIDE = 1 - 1e-6
"""How much of [-1, 1] is used, so that pixels at 0 and 1 have a finite atanh, and move."""
LARGEST = 1e10
CHECKS = 10
PROGRESS = 0.9999


def cw_l2(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, searches: int, iterations: int,
    c0: float, lr: float, kappa: float, abort_early: bool,
) -> Result:  # fmt: skip
    """Search for the smallest c that succeeds, each example on its own (Carlini and Wagner 2017, arXiv:1608.04644).

    c grows tenfold until it first succeeds and is bisected then. Success is a margin beyond -`kappa`. The nearest
    success of all iterations counts. With `abort_early` an example rests, until the next c, once a tenth of the
    iterations brings it no progress: up to a third of the cost is saved, and norms are up to 4 % larger. `ctx` is not
    needed; taking it allows the harness to divide the batch.
    """
    if searches < 1 or iterations < 1:
        raise UsageError(f"searches={searches} and iterations={iterations} must be at least 1")
    closest, index = Closest(x), standing(model, x, y)
    if not len(index):
        return Result(last=x, any=x)
    c = x.new_full((len(index),), c0)
    low, high = torch.zeros_like(c), torch.full_like(c, float("inf"))
    for search in range(searches):
        if searches >= 10 and search == searches - 1:
            c = high.clamp_max(LARGEST)
        won = _minimise(model, y, c, closest, index, iterations, lr, kappa, abort_early)
        low, high = torch.where(won, low, c), torch.where(won, c, high)
        c = torch.where(high.isinf(), c * 10, (low + high) / 2)
    return Result(last=closest.points, any=closest.points)


def _minimise(
    model: Oracle, y: Labels, c: torch.Tensor, closest: Closest, index: torch.Tensor, iterations: int, lr: float,
    kappa: float, abort_early: bool,
) -> Flags:  # fmt: skip
    """One minimisation for the examples at `index`, offering every point to `closest`; whether each one won (n,)."""
    ever = torch.zeros(len(index), dtype=torch.bool, device=c.device)
    live = torch.arange(len(index), device=c.device)
    x, y = closest.x[index], y[index]
    hidden = ((2 * x - 1) * INSIDE).atanh()
    adam, before = Adam(hidden, lr), torch.full_like(c, float("inf"))
    check = max(1, iterations // CHECKS)
    for iteration in range(iterations):
        hidden = hidden.detach().requires_grad_(True)
        point = (hidden.tanh() + 1) / 2
        logits = model(point)
        loss = (point - x).square().flatten(1).sum(dim=1) + c * (margin(logits, y) + kappa).clamp_min(0.0)
        (gradient,) = torch.autograd.grad(loss.sum(), hidden)
        won = beaten(logits, y, kappa)
        closest.offer(index[live], point, won)
        ever[live] |= won
        hidden = hidden.detach() + adam.step(gradient)
        if abort_early and iteration % check == 0:
            loss = loss.detach()
            on = loss <= PROGRESS * before
            before = loss
            if not on.all():
                hidden, live, x, y, c, before = (part[on] for part in (hidden, live, x, y, c, before))
                adam.keep(on)
            if not len(live):
                break
    return ever


def adam_in_pixels(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, iterations: int, lr: float,
    distance_weight: float,
) -> Result:  # fmt: skip
    """Push the runner-up of the clean image over the true class by Adam on the pixels; clamp once, at the end.

    As Simple Structure's script does it: no tanh, no search, no memory of the nearest success; what counts is the
    point after the step whose loss was lowest. The script's squared distance is that of a tensor to itself, always 0:
    hence the default `distance_weight` of 0, where the paper means 1. Its batches share one lowest loss, and its
    failures are kept; here every image has its own lowest loss, and a failure is the clean image.
    """
    if iterations < 1:
        raise UsageError(f"iterations={iterations} must be at least 1")
    index = standing(model, x, y)
    if not len(index):
        return Result(last=x, any=x)
    begin, true = x[index], y[index].unsqueeze(1)
    with torch.no_grad():
        runner_up = model(begin).scatter(1, true, float("-inf")).argmax(dim=1, keepdim=True)
    adam, lowest = Adam(begin, lr), begin.new_full((len(begin),), float("inf"))
    delta = kept = torch.zeros_like(begin)
    for _ in range(iterations):
        delta = delta.detach().requires_grad_(True)
        logits = model(begin + delta)
        lead = (logits.gather(1, true) - logits.gather(1, runner_up)).squeeze(1)
        loss = distance_weight * delta.square().flatten(1).sum(dim=1) + lead.clamp_min(0.0)
        (gradient,) = torch.autograd.grad(loss.sum(), delta)
        delta, loss = delta.detach() + adam.step(gradient), loss.detach()
        kept, lowest = where_rows(loss < lowest, delta, kept), torch.minimum(loss, lowest)
    point = (begin + kept).clamp(0.0, 1.0)
    with torch.no_grad():
        won = beaten(model(point), y[index])
    found = x.clone()
    found[index] = where_rows(won, point, begin)
    return Result(last=found, any=found)
