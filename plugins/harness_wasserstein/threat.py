"""Membership in the Wasserstein ball, proven by a transport plan; shares no code with the attacks.

Everything is computed in float64, offset by offset with shifted slices. Budgets and tolerances are relative to M, the
intensity of an image over all its channels. The tolerances on row sums and on the image bound the total over all
pixels: bounding each pixel by 1e-5 M would let an image of 3x32x32 pixels change by 0.015 everywhere.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from harness_wasserstein.plan import Plan

if TYPE_CHECKING:
    from harness.api import Images

COST = 1e-3
MASS = 1e-5
NEGATIVE = 1e-6
CAPACITY = 1e-6


@dataclass(frozen=True, slots=True)
class _Totals:
    """What a plan does to a batch: the images that it starts from and arrives at, their cost and least entry (n,)."""

    left: torch.Tensor
    arrived: torch.Tensor
    cost: torch.Tensor
    least: torch.Tensor


def verify(x: Images, x_adv: Images, eps: float | None, evidence: Any = None) -> torch.Tensor:
    """Tell whether each image is unchanged, or what its plan makes of `x` at a cost of at most eps * M."""
    return _verified(x, x_adv, eps, evidence, capacity=True)


def verify_unclamped(x: Images, x_adv: Images, eps: float | None, evidence: Any = None) -> torch.Tensor:
    """Verify images that may exceed 1."""
    return _verified(x, x_adv, eps, evidence, capacity=False)


def distance(x: Images, x_adv: Images, evidence: Any = None) -> torch.Tensor:
    """Compute the plan's cost over M (n,): 0 for unchanged images, infinity where no plan leads to the image."""
    cost, valid = _cost(x, x_adv, evidence)
    return torch.where(_unchanged(x, x_adv), 0.0, torch.where(valid, cost / _mass(x), math.inf))


def _verified(x: Images, x_adv: Images, eps: float | None, evidence: Any, *, capacity: bool) -> torch.Tensor:
    cost, valid = _cost(x, x_adv, evidence)
    within = cost <= (math.nan if eps is None else eps) * (1 + COST) * _mass(x)
    least, most = _extremes(x_adv)
    fits = (least >= -CAPACITY) & ((most <= 1 + CAPACITY) | (not capacity))
    return _unchanged(x, x_adv) | (valid & within & fits)


def _cost(x: Images, x_adv: Images, evidence: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Cost of the plan of each image, and whether the plan is one and leads from `x` to `x_adv`."""
    if not _well_formed(x, x_adv, evidence):
        return torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device), torch.zeros_like(_unchanged(x, x))
    totals = _totals(evidence, x.device)
    total = _mass(x)
    channels = (x_adv.double().sum(dim=(2, 3)) - x.double().sum(dim=(2, 3))).abs().amax(dim=1)
    valid = (
        (totals.least >= -NEGATIVE * total)
        & (_difference(totals.left, x) <= MASS * total)
        & (_difference(totals.arrived, x_adv) <= MASS * total)
        & (channels <= MASS * total)
    )
    return totals.cost, valid


def _well_formed(x: Images, x_adv: Images, evidence: Any) -> bool:
    if type(evidence) is not Plan or type(evidence.low) is not int or type(evidence.high) is not int:
        return False
    mass, width = evidence.mass, evidence.high - evidence.low + 1
    return (
        type(mass) is torch.Tensor
        and mass.layout is torch.strided
        and mass.is_floating_point()
        and not mass.is_meta
        and evidence.low <= 0 <= evidence.high
        and x.shape == x_adv.shape
        and mass.shape == (*x.shape[:2], width * width, *x.shape[2:])
    )


def _totals(plan: Plan, device: torch.device) -> _Totals:
    n, channels, _, height, width = plan.mass.shape
    left = torch.zeros(n, channels, height, width, dtype=torch.float64, device=device)
    arrived = torch.zeros_like(left)
    cost = torch.zeros(n, dtype=torch.float64, device=device)
    least = torch.zeros_like(cost)
    offsets = itertools.product(range(plan.low, plan.high + 1), repeat=2)
    for number, (down, right) in enumerate(offsets):
        moved = plan.mass[:, :, number].detach().to(device).double()
        left += moved
        rows, columns = _overlap(down, height), _overlap(right, width)
        # What leaves the frame is lost, and missing from its channel.
        arrived[:, :, rows[1], columns[1]] += moved[:, :, rows[0], columns[0]]
        # Counted without signs, so that no negative entry pays for another.
        cost += math.hypot(down, right) * moved.abs().sum(dim=(1, 2, 3))
        least = torch.minimum(least, moved.amin(dim=(1, 2, 3)))
    return _Totals(left=left, arrived=arrived, cost=cost, least=least)


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """Along one axis: the pixels that a shift keeps inside the frame, and where it takes them."""
    inside = max(size - abs(shift), 0)
    first = min(max(-shift, 0), size)
    return slice(first, first + inside), slice(first + shift, first + shift + inside) if inside else slice(0, 0)


def _unchanged(x: Images, x_adv: Images) -> torch.Tensor:
    return (x == x_adv).flatten(1).all(dim=1)


def _mass(x: Images) -> torch.Tensor:
    return x.double().sum(dim=(1, 2, 3))


def _difference(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first.double() - second.double()).abs().sum(dim=(1, 2, 3))


def _extremes(images: Images) -> tuple[torch.Tensor, torch.Tensor]:
    return images.double().amin(dim=(1, 2, 3)), images.double().amax(dim=(1, 2, 3))
