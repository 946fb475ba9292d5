"""RayS: flips ever smaller blocks of a sign vector, and keeps a flip where the boundary comes nearer along it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from harness.api import Result, UsageError
from harness.ops import misclassified, where_rows

if TYPE_CHECKING:
    from harness.api import AttackContext, Images, Labels, Oracle, ThreatModel

LOOK, BUDGET, BISECT = range(3)


def rays(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, queries: int, tolerance: float
) -> Result:
    """Search for the sign vector along which the boundary is nearest (Chen and Gu 2020, arXiv:2006.12792).

    Every example still standing asks one decision a round, whatever phase of its search it is in.

    An example stops at its first misclassified point within eps; one without is returned clean after `queries`.
    `tolerance`: where the bisection ends, as the Euclidean length of the perturbation. Details: `queries` asked, and
    the smallest `radius` (linf) known to break the image, 1 where none is.
    """
    if queries < 1 or tolerance <= 0:
        raise UsageError(f"queries={queries} must be at least 1, and tolerance={tolerance} above 0")
    eps, found = threat.radius, x.clone()
    radii, asked = torch.ones(len(x), device=x.device), torch.full((len(x),), queries, device=x.device)
    broken = misclassified(model(x), y)
    radii[broken], asked[broken] = 0.0, 1
    search = _begin(x, y)
    search.keep(~broken)
    width = tolerance / math.sqrt(x[0].numel())
    for query in range(2, queries + 1):
        if not len(search.row):
            break
        radius, direction = search.radius(eps), search.candidate()
        point = (search.x + radius.unsqueeze(1) * direction).clamp(0.0, 1.0)
        broken = misclassified(model(point.view(-1, *x.shape[1:])), search.y)
        done = broken & (radius <= eps)
        if done.any():
            row = search.row[done]
            found[row], radii[row], asked[row] = point[done].view(-1, *x.shape[1:]), radius[done], query
        search.learn(broken, radius, direction, width)
        search.keep(~done)
    radii[search.row] = search.best.clamp_max(1.0)
    return Result(last=found, any=found, details={"queries": asked, "radius": radii})


@dataclass(slots=True)
class Search:
    """The state of the examples still searched, one row each; its methods change it in place.

    `best` is the smallest radius known to break along `signs`, infinite before there is one. A phase is to LOOK
    whether the candidate breaks at `best` too, to try the BUDGET, and to BISECT between `low` and `high`.
    """

    row: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    signs: torch.Tensor
    best: torch.Tensor
    level: torch.Tensor
    block: torch.Tensor
    phase: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def radius(self, eps: float) -> torch.Tensor:
        """Compute at which radius (n,) each example asks next; 1 reaches a corner of [0, 1] and is the most."""
        look = torch.where(self.phase == LOOK, self.best.clamp_max(1.0), (self.low + self.high) / 2)
        return torch.where(self.phase == BUDGET, eps, look)

    def candidate(self) -> torch.Tensor:
        """Build the sign vectors (n, d) to ask about: the best ones with the current block flipped."""
        place = torch.arange(self.x.shape[1], device=self.x.device)
        start, size = self.block * self._size(), self._size()
        flipped = (place >= start.unsqueeze(1)) & (place < (start + size).unsqueeze(1))
        return torch.where(flipped, -self.signs, self.signs)

    def learn(self, broken: torch.Tensor, radius: torch.Tensor, direction: torch.Tensor, width: float) -> None:
        """Record which points broke the model, and move every example on to its next question."""
        look, bisect = self.phase == LOOK, self.phase == BISECT
        self.high = torch.where(broken, radius, self.high)
        self.low = torch.where(broken, self.low, radius)
        over = (look & ~broken) | (bisect & (self.high - self.low <= width))
        nearer = bisect & over & (self.high < self.best)
        self.best = torch.where(nearer, self.high, self.best)
        self.signs = where_rows(nearer, direction, self.signs)
        self.phase = torch.where(over, LOOK, (self.phase + 1).clamp_max(BISECT))
        self.block = self.block + over
        full = self.block * self._size() >= self.x.shape[1]
        self.block = torch.where(full, 0, self.block)
        self.level = (self.level + full).clamp_max(math.ceil(math.log2(self.x.shape[1])))

    def keep(self, mask: torch.Tensor) -> None:
        """Drop the examples outside the mask (n,)."""
        if not mask.all():
            for state in fields(self):
                setattr(self, state.name, getattr(self, state.name)[mask])

    def _size(self) -> torch.Tensor:
        """Pixels in a block (n,): at level s the image is cut into 2^s."""
        return -(-self.x.shape[1] // 2**self.level)


def _begin(x: torch.Tensor, y: torch.Tensor) -> Search:
    flat, zeros = x.flatten(1), torch.zeros(len(x), device=x.device)
    count = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    return Search(
        row=torch.arange(len(x), device=x.device), x=flat, y=y, signs=torch.ones_like(flat),
        best=torch.full_like(zeros, float("inf")), level=count, block=count, phase=count, low=zeros, high=zeros,
    )  # fmt: skip
