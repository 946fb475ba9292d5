"""Ascent along any direction, and the first misclassified point on the way."""

from collections.abc import Callable

import torch

from harness.ops import misclassified, rows

Function = Callable[[torch.Tensor], torch.Tensor]


def follow(
    loss: Function, start: torch.Tensor, step: float, project: Function, steps: int, direction: Function = torch.sign
) -> torch.Tensor:
    """`harness.ops.ascend` with a direction to choose; the loss may couple the examples of a batch.

    Args:
        direction: gradients (n, c, h, w) -> the steps to take, times `step`; it may remember earlier gradients.
    """
    point = start.detach()
    for _ in range(steps):
        point.requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(point).sum(), point)
        point = project(point.detach() + step * direction(gradient))
    return point


class Trail:
    """Asks the model along one walk, and remembers for each example the first point that is misclassified.

    `objective`: logits (n, k) -> what each example climbs (n,). `draws`: the model is asked so often at every point,
    for models that answer at random: losses are averaged, and more than half of the draws must be wrong.
    """

    def __init__(self, model: Function, x: torch.Tensor, y: torch.Tensor, objective: Function, draws: int = 1):
        self.model, self.y, self.objective, self.draws = model, y, objective, draws
        self.first = x
        self.broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def loss(self, point: torch.Tensor) -> torch.Tensor:
        """What each example climbs (n,)."""
        answers = [self.model(point) for _ in range(self.draws)]
        with torch.no_grad():
            new = _outvoted(answers, self.y) & ~self.broken
            self.first, self.broken = rows(new, point.detach(), self.first), self.broken | new
        return torch.stack([self.objective(logits) for logits in answers]).mean(dim=0)

    def breaks(self, point: torch.Tensor) -> torch.Tensor:
        """Whether each example is misclassified at the point."""
        with torch.no_grad():
            return _outvoted([self.model(point) for _ in range(self.draws)], self.y)


def _outvoted(answers: list[torch.Tensor], y: torch.Tensor) -> torch.Tensor:
    wrong = torch.stack([misclassified(logits, y) for logits in answers])
    return 2 * wrong.sum(dim=0) > len(answers)
