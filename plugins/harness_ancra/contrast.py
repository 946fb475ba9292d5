"""Asymmetric negative contrast: pushes apart the predictions of an image and of an image of another class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from harness.api import Labels, Logits


def negatives(y: Labels) -> torch.Tensor | None:
    """Draw for each label (n,) the index of an image of another class: first the class, then one of its images.

    Returns None where there is only one class. Draws come from torch's global generator.
    """
    other = y[:, None] != y
    if not other.any():
        return None
    return torch.multinomial(other / torch.bincount(y)[y], 1).squeeze(1)


def contrast(anchor: Logits, negative: Logits, alpha: float) -> torch.Tensor:
    """Compute the mean similarity, from 0 to 1, of the logits (n, k) of anchors and of their negatives.

    Rows that predict one class give the geometric mean of its two probabilities, others 0. A share `alpha` of it takes
    gradient on the negatives' side only, the rest on the anchors' only.
    """
    (p, of_anchor), (q, of_negative) = (logits.softmax(dim=1).max(dim=1) for logits in (anchor, negative))
    likeness = alpha * (p.detach() * q).sqrt() + (1 - alpha) * (p * q.detach()).sqrt()
    return (likeness * (of_anchor == of_negative)).mean()
