"""Membership in `flow`: the image is the clean one warped by the flow, and no pixel moves beyond the budget.

Written apart from `warp`, on absolute positions in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from harness.api import Flags, Images

REACH = 1e-6
"""Slack of the budget in pixels: the rounding of a float32 flow."""

IMAGE = 1e-5
"""Slack of a pixel value: float32 sampling positions of images of up to a hundred pixels; 1/400 of an 8-bit level."""


def distance(x: Images, x_adv: Images, evidence: object = None) -> torch.Tensor:
    """Compute the largest displacement (n,) in pixels, infinite where the flow does not give the returned image."""
    flow, given = _flow(x, evidence)
    return torch.where(given & _gives(x, x_adv, flow), _reach(flow), float("inf"))


def verify(x: Images, x_adv: Images, eps: float, evidence: object = None) -> Flags:
    """Tell whether each image is `x` warped by its flow, no pixel moving by more than `eps` in either direction.

    `evidence`: the flow (n, 2, h, w) in pixels, vertical first. Without one, or with a malformed one, all are outside.
    """
    flow, given = _flow(x, evidence)
    return given & (_reach(flow) <= eps + REACH) & _gives(x, x_adv, flow)


def _flow(x: Images, evidence: object) -> tuple[torch.Tensor, Flags]:
    """The flow in float64, zero where it is missing, malformed or not finite, and where it is none of that (n,)."""
    shape = (len(x), 2, *x.shape[2:])
    if not isinstance(evidence, torch.Tensor) or evidence.shape != shape or not evidence.is_floating_point():
        return x.new_zeros(shape, dtype=torch.float64), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    flow = evidence.detach().to(x.device, torch.float64)
    finite = flow.isfinite().flatten(1).all(dim=1)
    return torch.where(finite.view(-1, 1, 1, 1), flow, 0.0), finite


def _reach(flow: torch.Tensor) -> torch.Tensor:
    return flow.abs().flatten(1).amax(dim=1)


def _gives(x: Images, x_adv: Images, flow: torch.Tensor) -> Flags:
    return (_warped(x.double(), flow) - x_adv.double()).abs().flatten(1).amax(dim=1) <= IMAGE


def _warped(x: Images, flow: torch.Tensor) -> Images:
    n, c, h, w = x.shape
    row = (torch.arange(h, dtype=flow.dtype, device=x.device)[:, None] + flow[:, 0]).clamp(0, h - 1)
    column = (torch.arange(w, dtype=flow.dtype, device=x.device) + flow[:, 1]).clamp(0, w - 1)
    total = torch.zeros_like(x)
    for i in (row.floor(), row.floor() + 1):
        for j in (column.floor(), column.floor() + 1):
            weight = (1 - (row - i).abs()) * (1 - (column - j).abs())
            place = (i.clamp(max=h - 1) * w + j.clamp(max=w - 1)).long().view(n, 1, h * w).expand(n, c, h * w)
            total += weight[:, None] * x.reshape(n, c, h * w).gather(2, place).view_as(x)
    return total
