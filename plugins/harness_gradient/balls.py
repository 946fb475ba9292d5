"""Balls that iterates are kept in: start points, step directions and projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.ops import norm, project_l2, project_linf
from harness_gradient.first_adversarial import Function

if TYPE_CHECKING:
    from harness.api import AttackContext

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True, kw_only=True)
class Ball:
    """A norm's ball around images, cut to [0, 1]: the direction of steepest ascent and the projection."""

    direction: Function
    project: Function


def ball(kind: str, x: torch.Tensor, eps: float) -> Ball:
    """Make the `linf` or `l2` ball of radius eps around `x`."""
    if kind == "linf":
        return Ball(direction=torch.sign, project=project_linf(x, eps))
    return Ball(direction=unit, project=project_l2(x, eps))


def offsets(kind: str, ctx: AttackContext, restart: int) -> torch.Tensor:
    """Draw changes (n, c, h, w) uniformly from the unit ball, keyed for each example; multiply them by eps."""
    if kind == "linf":
        return ctx.noise(f"start:{restart}")
    normal = ctx.noise(f"start:{restart}", "normal")
    # Another purpose: under the same one, the radius would come from the very bits of the first normal number.
    share = ctx.noise(f"start:{restart}:radius").flatten(1)[:, 0].double().add(1).div(2)
    radius = share.pow(1 / normal[0].numel())
    return (normal.double() / _wide(norm(normal, 2).clamp_min(TINY)) * _wide(radius)).float()


def unit(gradient: torch.Tensor) -> torch.Tensor:
    """Divide each example's gradient by its Euclidean length; zero, and whatever is not finite, stays zero."""
    finite = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    # Divided by the largest value first: the squares of saturated or exploding gradients leave the float32 range.
    level = finite / _wide(finite.abs().flatten(1).amax(dim=1).clamp_min(TINY))
    return level / _wide(torch.linalg.vector_norm(level.flatten(1), dim=1).clamp_min(TINY))


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1)
