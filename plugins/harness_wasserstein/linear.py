"""Frank-Wolfe's linear problem: the plan within the budget that gains most along a direction, entropy-regularised."""

import torch

from harness_wasserstein.window import Window, occupied


class BestPlan:
    """The maximiser of <G, plan> - gamma * KL over plans from `x` (n, c, h, w) of cost at most eps * M.

    Its dual has one unknown for each image, the price of distance, found by a fixed number of halvings, so that no
    image depends on the others. The feasible end of the bracket is used. For the bracket to hold, |G| <= 1 and eps > 0.
    """

    def __init__(self, x: torch.Tensor, eps: float, window: Window, gamma: float, halvings: int) -> None:
        self.x, self.window, self.gamma, self.halvings = x, window, gamma, halvings
        self.budget = eps * x.sum(dim=(1, 2, 3))
        self.distances = window.distances(x)
        # A price at which even a unit of gain everywhere pays for no more than the budget: see the tests.
        self.highest = max(2.0 + gamma * float(torch.log(self.distances.sum() / eps)), 1e-6)
        self.lengths, self._members = _rings(self.distances)
        self._outside = ~window.inside(x)
        self._sources, self._supply = occupied(x)

    def __call__(self, gain: torch.Tensor) -> torch.Tensor:
        """Compute the plan for gains (n, c, k * k, h, w)."""
        scores = (gain / self.gamma).masked_fill_(self._outside, -torch.inf)
        price = self._price(scores)
        scores -= _column(price / self.gamma) * self.distances[:, None, None]
        return torch.softmax(scores, dim=2).mul_(self.x.unsqueeze(2))

    def _price(self, scores: torch.Tensor) -> torch.Tensor:
        """The price (n,): offsets of one length share it, and empty pixels cost nothing, so both are put together."""
        n = len(scores)
        rings = torch.stack([scores[:, :, members].logsumexp(dim=2) for members in self._members], dim=1)
        rings = rings.flatten(2).gather(2, self._sources.unsqueeze(1).expand(n, len(self.lengths), -1))
        low = self.x.new_zeros(n)
        high = torch.full_like(low, self.highest)
        for _ in range(self.halvings):
            middle = (low + high) / 2
            shares = torch.softmax(rings - (middle / self.gamma).view(-1, 1, 1) * self.lengths[:, None], dim=1)
            cost = (shares.mul_(self._supply.unsqueeze(1)).sum(dim=2) * self.lengths).sum(dim=1)
            over = cost > self.budget
            low, high = torch.where(over, middle, low), torch.where(over, high, middle)
        return high


def _rings(distances: torch.Tensor) -> tuple[torch.Tensor, list[list[int]]]:
    """The different lengths of offsets, ascending, and the numbers of the offsets that have each."""
    lengths = sorted(set(distances.tolist()))
    members = [[number for number, d in enumerate(distances.tolist()) if d == length] for length in lengths]
    return distances.new_tensor(lengths), members


def _column(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1, 1)
