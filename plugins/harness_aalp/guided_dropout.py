"""Guided Dropout: drops the penultimate features that contribute least to the loss of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

    from harness.api import Labels, Logits


def trim(
    head: nn.Linear, features: torch.Tensor, logits: Logits, labels: Labels, *, gd_rows: str, gd_per: str, gd_ties: str,
    gd_scale: float, gd_of: str,
) -> Logits:  # fmt: skip
    """Compute the logits (n, k) of a linear head without the features (n, d) that contribute least.

    `logits` are those of all features. The mask is a constant: what is dropped takes no gradient.
    """
    scores = contribution(features, logits, labels, head.weight, of=gd_of)
    trimmed: Logits = head(features * keep_mask(scores, rows=gd_rows, per=gd_per, ties=gd_ties) * gd_scale)
    return trimmed


@torch.no_grad()
def contribution(
    features: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, *, of: str = "loss"
) -> torch.Tensor:
    """Compute |gradient * feature| (n, d) in closed form for a linear head, without a pass through the backbone.

    `of="loss"`: mean cross-entropy, whose gradient at the features is (softmax - one-hot) W / n. `of="logit"`: the
    logit of the true class, whose gradient is its row of W.
    """
    if of == "logit":
        return (weight[labels] * features).abs()
    residual = logits.softmax(dim=1)
    residual[torch.arange(len(labels), device=labels.device), labels] -= 1
    return ((residual @ weight) / len(labels) * features).abs()


@torch.no_grad()
def keep_mask(scores: torch.Tensor, *, rows: str = "both", per: str = "batch", ties: str = "rank") -> torch.Tensor:
    """Build the mask of the half of the features that contributes most: (1, d), or (n, d) with `per="sample"`.

    `rows`: the contributions that count. With `both`, `clean` and `adv` the first half of the rows is clean, the second
    adversarial; `all` is for rows that are no pairs. `ties="half"` is version 1's formula: half the weight for what
    equals the (lower) median.
    """
    ranked = _counted(scores, rows, per)
    if ties == "half":
        return (torch.sign(ranked - ranked.median(dim=1, keepdim=True).values) + 1) / 2
    kept = (ranked.shape[1] + 1) // 2
    order = ranked.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(ranked).scatter(1, order[:, :kept], 1.0)


def _counted(scores: torch.Tensor, rows: str, per: str) -> torch.Tensor:
    """What is ranked: one row for the batch, or one for each sample."""
    if rows == "all":
        return scores.mean(dim=0, keepdim=True) if per == "batch" else scores
    clean, adversarial = scores.chunk(2)
    if per == "batch":
        return {"both": scores, "clean": clean, "adv": adversarial}[rows].mean(dim=0, keepdim=True)
    # Both branches of a pair drop the same features, or pairing would compare two different networks.
    return {"both": (clean + adversarial) / 2, "clean": clean, "adv": adversarial}[rows].repeat(2, 1)
