"""DeepFool for the l2 and the linf norm, on a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.api import Result, UsageError
from harness.ops import misclassified, where_rows
from harness_minimal.closest import beaten, length

if TYPE_CHECKING:
    from harness.api import AttackContext, Images, Labels, Oracle, ThreatModel

EXTRA = 1e-4
"""Added to the length of every step, as its authors do: without it iterates stop on the boundary."""


def deepfool(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, overshoot: float,
    candidates: int,
) -> Result:  # fmt: skip
    """Step to the nearest boundary of the linearised classifier until the prediction changes, at most `steps` times.

    `overshoot` stretches the sum of all steps. Of more than `candidates` classes only those that are likeliest on the
    clean image are considered. Images that are beaten leave the batch; so do those without any gradient. `ctx` is not
    needed; taking it allows the harness to divide the batch.
    """
    if steps < 1 or candidates < 2:
        raise UsageError(f"steps={steps} must be at least 1 and candidates={candidates} at least 2")
    found = x.clone()
    with torch.no_grad():
        logits = model(x)
    left = (~misclassified(logits, y)).nonzero().squeeze(1)
    rivals = logits.scatter(1, y.unsqueeze(1), float("-inf")).topk(min(candidates, logits.shape[1]) - 1).indices
    point, total = x[left], torch.zeros_like(x[left])
    for _ in range(steps):
        if not len(left):
            break
        move = _nearest(model, point, y[left], rivals[left], threat.kind)
        total = total + move
        point = (x[left] + (1 + overshoot) * total).clamp(0.0, 1.0)
        with torch.no_grad():
            won = beaten(model(point), y[left])
        found[left[won]] = point[won]
        on = ~won & (move != 0).flatten(1).any(dim=1)
        left, point, total = left[on], point[on], total[on]
    return Result(last=found, any=found)


def _nearest(model: Oracle, point: Images, y: Labels, rivals: torch.Tensor, kind: str) -> torch.Tensor:
    """The shortest way, by the linearised classifier, on which one of the rivals (n, r) overtakes the true class.

    Zero where no logit difference has a usable gradient. One backward pass for each rival.
    """
    point = point.detach().requires_grad_(True)
    logits = model(point)
    gaps = logits.gather(1, rivals) - logits.gather(1, y.unsqueeze(1))
    shortest = gaps.new_full((len(y),), float("inf"))
    way = torch.zeros_like(point)
    for column in range(gaps.shape[1]):
        last = column == gaps.shape[1] - 1
        (gradient,) = torch.autograd.grad(gaps[:, column].sum(), point, retain_graph=not last)
        slope = length(gradient, 2 if kind == "l2" else 1)
        distance = gaps[:, column].detach().abs() / slope
        nearer = (slope > 0) & slope.isfinite() & (distance < shortest)
        shortest = torch.where(nearer, distance, shortest)
        unit = gradient / slope[:, None, None, None] if kind == "l2" else gradient.sign()
        way = where_rows(nearer, unit, way)
    return torch.where(way == 0, 0.0, (shortest + EXTRA)[:, None, None, None] * way)
