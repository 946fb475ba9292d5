"""What a run of PGD increases: a loss of the true class, or of a target class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.ops import cross_entropy, margin, present
from harness_gradient.first_adversarial import Function

if TYPE_CHECKING:
    from harness.api import AttackContext

MASKED = 100
"""Logits that are so many times as large as the two highest ones are of masked classes, and no part of a deviation."""


def target_classes(logits: torch.Tensor, y: torch.Tensor, target: str, most: int, ctx: AttackContext) -> torch.Tensor:
    """Choose the target classes (n, t) to try in turn, never the true one.

    `each`: the likeliest other classes on the clean image, likeliest first, at most so many; `least_likely`: the least
    likely other class; `random`: one drawn uniformly from the others.
    """
    if target == "random":
        count = logits.shape[1] - 1
        share = (ctx.noise("target").flatten(1)[:, :1] + 1) / 2
        drawn = (share * count).long().clamp_max(count - 1)
        return drawn + (drawn >= y.unsqueeze(1)).long()
    true = y.unsqueeze(1)
    if target == "least_likely":
        return logits.scatter(1, true, float("inf")).argmin(dim=1, keepdim=True)
    order = logits.scatter(1, true, float("-inf")).argsort(dim=1, descending=True, stable=True)
    # The true class is last, unless another logit is -inf too.
    others: torch.Tensor = order[order != true].view(len(y), -1)
    return others[:, :most]


def objective(loss: str, logits: str, y: torch.Tensor, target: torch.Tensor | None) -> Function:
    """Make the function from logits (n, k) to the value (n,) that each example increases.

    `target`: classes (n,), or None for the true one. `loss`: `ce`, cross-entropy of the true class, or minus that of
    the target; `margin`, the logit of the best other class, or of the target, minus the true one. `logits`: `rescaled`
    divides each example's by their standard deviation, which sends no gradient back, so that cross-entropy cannot
    saturate.
    """

    def value(answer: torch.Tensor) -> torch.Tensor:
        if logits == "rescaled":
            answer = answer / _deviation(answer.detach())
        if target is None:
            return cross_entropy(answer, y) if loss == "ce" else -margin(answer, y)
        if loss == "ce":
            return -cross_entropy(answer, target)
        return torch.diff(answer.gather(1, torch.stack([y, target], dim=1)), dim=1).squeeze(1)

    return value


def _deviation(logits: torch.Tensor) -> torch.Tensor:
    """The standard deviation (n, 1) of each example's logits, without those of masked classes."""
    here = present(logits, MASKED)
    plain = logits.std(dim=1, keepdim=True)
    if not here.all():
        count = here.sum(dim=1, keepdim=True)
        centred = (logits - logits.where(here, 0.0).sum(dim=1, keepdim=True) / count).where(here, 0.0)
        some = (centred.square().sum(dim=1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
        plain = torch.where(here.all(dim=1, keepdim=True), plain, some)
    return plain.clamp_min(1e-12)
