"""Keeps for each example the nearest misclassified point that a search for the smallest perturbation finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.ops import logit_scale, margin, misclassified

if TYPE_CHECKING:
    from harness.api import Images, Labels, Oracle

ROUNDING = 4e-6


def standing(model: Oracle, x: Images, y: Labels) -> torch.Tensor:
    """Return the indices of the images that are classified correctly; the others need no perturbation."""
    with torch.no_grad():
        return (~misclassified(model(x), y)).nonzero().squeeze(1)


def beaten(logits: torch.Tensor, y: torch.Tensor, kappa: float = 0.0) -> torch.Tensor:
    """Tell whether each example (n,) is misclassified by more than `kappa`, and by more than rounding can undo.

    The logits of one image differ between batches by nearly a millionth of their scale. These searches end beside
    the boundary, where such a point would be judged now this way, now that. NaN beats nothing.
    """
    logits = logits.detach()
    return margin(logits, y) + kappa < -ROUNDING * logit_scale(logits)


def length(images: torch.Tensor, p: float = 2.0) -> torch.Tensor:
    """Compute the p-norm (n,) of each image, in its own precision."""
    found: torch.Tensor = torch.linalg.vector_norm(images.flatten(1), ord=p, dim=1)
    return found


class Closest:
    """The nearest misclassified points offered so far.

    `points`: those points by l2 distance, the clean image where there was none; `offer` changes them in place.
    """

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.points = x, x.clone()
        self.distances = x.new_full((len(x),), float("inf"))

    def offer(self, index: torch.Tensor, points: torch.Tensor, won: torch.Tensor) -> None:
        """Take those of the points, of the examples at `index`, that won and are nearer than what is kept."""
        points = points.detach()
        distances = length(points - self.x[index])
        nearer = won & (distances < self.distances[index])
        self.points[index[nearer]] = points[nearer]
        self.distances[index[nearer]] = distances[nearer]
