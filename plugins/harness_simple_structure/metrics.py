"""Detection metrics from scores (n,), higher for positives (adversarial images) than for negatives (clean ones)."""

import torch

FALSE_ALARMS = 20
"""One false alarm in that many clean images: 5 %."""


def auroc(negatives: torch.Tensor, positives: torch.Tensor) -> float:
    """Compute the share of pairs in which the positive scores higher, ties counting half."""
    ordered = negatives.sort().values
    below = torch.searchsorted(ordered, positives)
    up_to = torch.searchsorted(ordered, positives, right=True)
    return float((below + up_to).sum()) / (2 * len(negatives) * len(positives))


def threshold(negatives: torch.Tensor) -> torch.Tensor:
    """Find the lowest score that at most 5 % of the negatives exceed."""
    return negatives.sort(descending=True).values[len(negatives) // FALSE_ALARMS]


def true_positives(negatives: torch.Tensor, positives: torch.Tensor) -> float:
    """Compute the share of positives above that score: TPR at 5 % FPR."""
    return float((positives > threshold(negatives)).double().mean())
