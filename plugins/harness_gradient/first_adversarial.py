"""Records the first adversarial iterate of a gradient ascent."""

from collections.abc import Callable

import torch

from harness.ops import misclassified, where_rows

Function = Callable[[torch.Tensor], torch.Tensor]


class FirstAdversarial:
    """Evaluates the model at every iterate, and keeps for each example the first one that is misclassified.

    `objective`: logits (n, k) -> the value (n,) that each example increases. `draws`: how often the model is evaluated
    at every point, for random models: losses are averaged, and more than half of the draws must be wrong. `first`: the
    first adversarial iterates, the clean image where there is none. `broken`: where there is one (n,).
    """

    def __init__(self, model: Function, x: torch.Tensor, y: torch.Tensor, objective: Function, draws: int = 1):
        self.model, self.y, self.objective, self.draws = model, y, objective, draws
        self.first = x
        self.broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def loss(self, point: torch.Tensor) -> torch.Tensor:
        """Compute the value (n,) that each example increases, and record new adversarial iterates."""
        answers = [self.model(point) for _ in range(self.draws)]
        with torch.no_grad():
            new = _outvoted(answers, self.y) & ~self.broken
            self.first, self.broken = where_rows(new, point.detach(), self.first), self.broken | new
        return torch.stack([self.objective(logits) for logits in answers]).mean(dim=0)

    def breaks(self, point: torch.Tensor) -> torch.Tensor:
        """Tell whether each example (n,) is misclassified at the point, in most of the draws."""
        with torch.no_grad():
            return _outvoted([self.model(point) for _ in range(self.draws)], self.y)


def _outvoted(answers: list[torch.Tensor], y: torch.Tensor) -> torch.Tensor:
    wrong = torch.stack([misclassified(logits, y) for logits in answers])
    return 2 * wrong.sum(dim=0) > len(answers)
