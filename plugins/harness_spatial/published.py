"""The spatial attack of advertorch 0.2.3 as TPAP ran it, with its defects.

One L-BFGS-B minimises the summed loss of all images, so that images stop together and share its memory; a "search" is
only a fresh start of it; the flow is in units of half the image, seen through black borders; and images it fails on
come back black.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F

from harness.api import Result
from harness.ops import margin, misclassified, where_rows

if TYPE_CHECKING:
    from harness.api import AttackContext, Images, Labels, Oracle, ThreatModel

LINE_SEARCH = 100
OFFSET = 1e-10


def sta_tpap(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, searches: int,
    smoothing: float,
) -> Result:  # fmt: skip
    """Run the attack of advertorch as TPAP does.

    `last` is the library's output, `any` the same with clean images in place of black ones.
    """
    from scipy.optimize import fmin_l_bfgs_b

    identity = F.affine_grid(torch.eye(2, 3, device=x.device).expand(len(x), 2, 3), list(x.shape), align_corners=False)

    def sampled(grid: torch.Tensor) -> torch.Tensor:
        return F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)

    def objective(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        grid = torch.from_numpy(numbers).view(identity.shape).to(x).requires_grad_(True)
        loss = (margin(model(sampled(grid)), y).clamp_min(0.0) + smoothing * _variation(identity - grid)).sum()
        (gradient,) = torch.autograd.grad(loss, grid)
        return loss.item(), gradient.flatten().double().cpu().numpy()

    numbers = identity.flatten().double().cpu().numpy()
    bounds = np.broadcast_to([-1.0, 1.0], (numbers.size, 2))
    nearest = x.new_full((len(x),), float("inf"))
    last, moved = torch.zeros_like(x), torch.zeros_like(identity)
    for _ in range(searches):
        numbers, _, _ = fmin_l_bfgs_b(objective, numbers, bounds=bounds, maxiter=steps, maxls=LINE_SEARCH)
        grid = torch.from_numpy(numbers).view(identity.shape).to(x)
        with torch.no_grad():
            # Sampled values of 1 may come out a rounding above it.
            images = sampled(grid).clamp(0.0, 1.0)
            far = (grid - identity).square().flatten(1).sum(dim=1)
            better = misclassified(model(images), y) & (far < nearest)
        nearest, last = torch.where(better, far, nearest), where_rows(better, images, last)
        moved = where_rows(better, grid - identity, moved)
    pixels = moved * torch.tensor([x.shape[3], x.shape[2]], device=x.device) / 2
    details = {"flow_max": pixels.abs().flatten(1).amax(dim=1)}
    return Result(last=last, any=where_rows(nearest.isfinite(), last, x), details=details)


def _variation(move: torch.Tensor) -> torch.Tensor:
    """The root (n,) of the summed squares of all horizontal differences, plus that of the vertical ones."""
    differences = move[:, :, 1:] - move[:, :, :-1], move[:, 1:] - move[:, :-1]
    lengths = ((difference + OFFSET).square().flatten(1).sum(dim=1).sqrt() for difference in differences)
    return cast("torch.Tensor", sum(lengths))
