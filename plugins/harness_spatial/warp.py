"""Bilinear warping, differentiable in the flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from harness.api import Images


def warp(x: Images, flow: torch.Tensor) -> Images:
    """Sample `x` (n, c, h, w) at every pixel's position plus `flow` (n, 2, h, w): vertical, horizontal, in pixels.

    Outside the image the nearest border pixel is seen. Whole pixels and the remainder are taken apart before positions
    are formed, so that the error depends on neither size nor position and a zero flow gives `x` bit for bit. What
    comes out lies between the values that go in. At a whole number of pixels the gradient is the one-sided derivative
    to the right and downward.
    """
    whole = flow.detach().nan_to_num().floor()
    down, right = (flow - whole).unsqueeze(2).unbind(1)
    rows = torch.arange(x.shape[2], device=x.device).view(-1, 1) + whole[:, 0]
    columns = torch.arange(x.shape[3], device=x.device) + whole[:, 1]
    top, bottom = _inside(rows, x.shape[2]), _inside(rows + 1, x.shape[2])
    left, beside = _inside(columns, x.shape[3]), _inside(columns + 1, x.shape[3])
    upper = torch.lerp(_pick(x, top, left), _pick(x, top, beside), right)
    lower = torch.lerp(_pick(x, bottom, left), _pick(x, bottom, beside), right)
    return torch.lerp(upper, lower, down)


def pull_inside(flow: torch.Tensor) -> torch.Tensor:
    """Shorten a flow (n, 2, h, w) without changing its image: positions outside the image move to its border."""
    h, w = flow.shape[2:]
    row, column = torch.arange(h, device=flow.device).view(-1, 1), torch.arange(w, device=flow.device)
    down, right = flow.unbind(1)
    return torch.stack([down.clamp(-row, h - 1 - row), right.clamp(-column, w - 1 - column)], dim=1)


def _inside(index: torch.Tensor, size: int) -> torch.Tensor:
    return index.clamp(0, size - 1).long()


def _pick(x: Images, rows: torch.Tensor, columns: torch.Tensor) -> Images:
    index = (rows * x.shape[3] + columns).flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index).view_as(x)
