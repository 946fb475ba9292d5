"""Adam on a batch in which no example depends on the others."""

import torch

FIRST, SECOND, TINY = 0.9, 0.999, 1e-8


class Adam:
    """The moments of each example; all examples have taken the same number of steps."""

    def __init__(self, like: torch.Tensor, lr: float) -> None:
        self.lr, self.steps = lr, 0
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like)

    def step(self, gradient: torch.Tensor) -> torch.Tensor:
        """Update the moments, and return the change of the variables, which lowers the loss."""
        self.steps += 1
        self.mean = FIRST * self.mean + (1 - FIRST) * gradient
        self.square = SECOND * self.square + (1 - SECOND) * gradient.square()
        mean = self.mean / (1 - FIRST**self.steps)
        square = self.square / (1 - SECOND**self.steps)
        return -self.lr * mean / (square.sqrt() + TINY)

    def keep(self, mask: torch.Tensor) -> None:
        """Forget the examples outside the mask (n,)."""
        self.mean, self.square = self.mean[mask], self.square[mask]
