"""Mixtures of clean and attacked test images, as kinds (n,): 0 for clean, 1 and up for the attack sets."""

import torch


def uniform(y: torch.Tensor, ratio: float, sets: int) -> torch.Tensor:
    """Attack the same share of each class, spread over the sets in turn."""
    kinds = torch.zeros_like(y)
    for turn, label in enumerate(y.unique().tolist()):
        (rows,) = torch.where(y == label)
        attacked = rows[round((1 - ratio) * len(rows)) :]
        kinds[attacked] = 1 + (torch.arange(len(attacked), device=y.device) + turn) % sets
    return kinds


def by_class(y: torch.Tensor, ratio: float, sets: int) -> torch.Tensor:
    """Attack the last images in the order of their classes, as in the published validation.

    The sets take equal parts of the others in their order, so that a class tells whether, and nearly how, its images
    were attacked.
    """
    order = y.argsort(stable=True)
    attacked = order[int((1 - ratio) * len(y)) :]
    kinds = torch.zeros_like(y)
    kinds[attacked] = 1 + torch.arange(len(attacked), device=y.device) * sets // max(1, len(attacked))
    return kinds


def told_by_class(y: torch.Tensor, kinds: torch.Tensor) -> float:
    """Compute the accuracy of a detector that looks at the class alone: one half where nothing is confounded."""
    right = 0
    for label in y.unique().tolist():
        adversarial = kinds[y == label] > 0
        right += max(int(adversarial.sum()), int((~adversarial).sum()))
    return right / len(y)
