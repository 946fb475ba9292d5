"""SPSA: Adam on the margin, with gradients estimated from scores along random sign vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from harness.api import Result, UsageError
from harness.ops import margin, misclassified, project_linf

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.api import AttackContext, Images, Labels, Oracle, ThreatModel

BITS = 16
"""Sign vectors taken from one uniform draw: its leading bits, of the 24 that a float32 draw has."""

BETAS, TINY = (0.9, 0.999), 1e-8


def spsa(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, samples: int,
    lr: float, delta: float, chunk: int,
) -> Result:  # fmt: skip
    """Lower the margin by gradients estimated from scores (Uesato et al. 2018, arXiv:1802.05666).

    Each step asks 2 `samples` scores along directions of the example's own, and one at the new point.

    An example stops at its first misclassified point; one that never is comes back clean after
    1 + `steps` (2 `samples` + 1) queries. `chunk`: how many images are asked about at once; memory only.
    """
    if steps < 1 or samples < 1 or chunk < 1 or delta <= 0:
        raise UsageError(f"{steps=}, {samples=} and {chunk=} must be at least 1, and {delta=} above 0")
    eps, found = threat.radius, x.clone()
    queries = torch.ones(len(x), device=x.device)
    left = (~misclassified(model(x), y)).nonzero().squeeze(1)
    point = x[left]
    first, second = torch.zeros_like(point), torch.zeros_like(point)
    for step in range(1, steps + 1):
        if not len(left):
            break
        origin, label = x[left], y[left]
        blocks = (ctx.noise(f"step:{step}:{block}")[left] for block in range(-(-samples // BITS)))
        gradient = estimate(lambda a, b: margin(model(a), b), point, label, blocks, samples, delta, chunk)
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient.square()
        slope, scale = first / (1 - BETAS[0] ** step), (second / (1 - BETAS[1] ** step)).sqrt() + TINY
        point = project_linf(origin, eps)(point - lr * slope / scale)
        queries[left] += 2 * samples + 1
        broken = misclassified(model(point), label)
        found[left[broken]] = point[broken]
        left, point, first, second = (state[~broken] for state in (left, point, first, second))
    return Result(last=found, any=found, details={"queries": queries})


def estimate(
    value: Callable[[Images, Labels], torch.Tensor], point: Images, y: Labels, blocks: Iterable[torch.Tensor],
    samples: int, delta: float, chunk: int,
) -> torch.Tensor:  # fmt: skip
    """Estimate a gradient: the mean over sign vectors v of v (value(point + delta v) - value(point - delta v)) / (2
    delta).

    `blocks`: one uniform draw shaped like `point` for every `BITS` of the `samples`.
    """
    total = torch.zeros_like(point)
    for start, uniform in zip(range(0, samples, BITS), blocks, strict=True):
        signs = rademacher(uniform, min(BITS, samples - start))
        ends = torch.stack([point.unsqueeze(1) + delta * signs, point.unsqueeze(1) - delta * signs])
        asked, labels = ends.flatten(0, 2), y.repeat_interleave(signs.shape[1]).repeat(2)
        parts = zip(asked.split(chunk), labels.split(chunk), strict=True)
        values = torch.cat([value(images, classes) for images, classes in parts]).view(ends.shape[:3])
        slopes = (values[0] - values[1]) / (2 * delta)
        total += (slopes.view(*slopes.shape, *[1] * (point.dim() - 1)) * signs).sum(dim=1)
    return total / samples


def rademacher(uniform: torch.Tensor, count: int) -> torch.Tensor:
    """Read `count` <= `BITS` independent sign images (n, count, c, h, w) from one uniform draw on [-1, 1)."""
    bits = ((uniform.double() + 1) * 2 ** (BITS - 1)).long().unsqueeze(1)
    shifts = torch.arange(count, device=uniform.device).view(1, -1, *[1] * (uniform.dim() - 1))
    signs: torch.Tensor = ((bits >> shifts) & 1).to(uniform.dtype) * 2 - 1
    return signs
