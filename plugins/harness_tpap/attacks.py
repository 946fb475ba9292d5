"""Attacks on purified networks, which know the predictions before and after purification.

An example leaves at its first success; what was found is asked of what is deployed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from harness.api import Result, UsageError
from harness.ops import ascend, cross_entropy, margin, misclassified, project_linf, where_rows
from harness_tpap.surface import Surface, ascent

if TYPE_CHECKING:
    from harness.api import AttackContext, Images, Labels, Oracle, ThreatModel


def bpda(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, step: float, loss: str,
    restarts: int,
) -> Result:  # fmt: skip
    """Run BPDA from the static adversarial image, from the image itself and from `restarts` random points.

    Athalye et al. 2018, arXiv:1802.00420.
    """
    attempt = Attempt(model, x, y, threat, ctx, steps, step, loss)
    attempt.run(attempt.static(steps, step))
    attempt.run(x)
    for restart in range(restarts):
        attempt.run(attempt.random(restart))
    return attempt.result()


def label_controlled(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, step: float, loss: str,
    targets: int,
) -> Result:  # fmt: skip
    """Hold the label before purification, the true one and then the likeliest others, and attack the label after it.

    For a label that is held the pattern does not jump where the predicted one changes. `targets`: how many others.
    """
    attempt = Attempt(model, x, y, threat, ctx, steps, step, loss)
    start = attempt.random(0)
    with torch.no_grad():
        ranked = attempt.surface.base(x).scatter(1, y.unsqueeze(1), float("inf"))
    order = ranked.argsort(dim=1, descending=True, stable=True)
    for held in order[:, : targets + 1].unbind(dim=1):
        attempt.run(start, held=held)
    return attempt.result()


def two_point(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, step: float, loss: str,
    restarts: int,
) -> Result:  # fmt: skip
    """Attack both predictions, before and after purification, from the static image and from random points."""
    attempt = Attempt(model, x, y, threat, ctx, steps, step, loss)
    attempt.run(attempt.static(steps, step), both=True)
    for restart in range(restarts):
        attempt.run(attempt.random(restart), both=True)
    return attempt.result()


def step_fraction(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, step: float, loss: str,
    fractions: int,
) -> Result:  # fmt: skip
    """Run BPDA from the point nearest to an error along FGSM, PGD, gradient and random directions.

    `fractions` points along each direction are tried.

    Networks that overfit to one step fail at lengths between (Kim et al. 2021, arXiv:2010.01799).
    """
    attempt = Attempt(model, x, y, threat, ctx, steps, step, loss)
    *_, through = attempt.surface.look(x, y, loss)
    ends = [
        attempt.static(1, attempt.eps),
        attempt.static(steps, step),
        x + attempt.eps * through.sign(),
        attempt.random(0, corner=True),
    ]
    nearest, least = x.clone(), torch.full((len(x),), float("inf"), device=x.device)
    for end in ends:
        for part in range(1, fractions + 1):
            point = attempt.project(x + part / fractions * (end - x))
            with torch.no_grad():
                gap = margin(model(point), y)
            nearest, least = where_rows(gap < least, point, nearest), torch.minimum(gap, least)
    attempt.run(nearest)
    return attempt.result()


class Attempt:
    """Runs of gradient ascent in turn, each for the examples that still stand; keeps what broke and the first ends."""

    def __init__(
        self, model: Oracle, x: Images, y: Labels, threat: ThreatModel, ctx: AttackContext, steps: int, step: float,
        loss: str,
    ) -> None:  # fmt: skip
        if steps < 1:
            raise UsageError(f"steps={steps} must be at least 1")
        self.model, self.x, self.y, self.ctx = model, x, y, ctx
        self.steps, self.step, self.loss = steps, step, loss
        self.surface, self.eps = Surface(model, ctx), threat.radius
        self.project = project_linf(x, self.eps)
        self.broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.last: Images | None = None
        self.first = x.clone()

    def static(self, steps: int, step: float) -> Images:
        """Compute the static adversarial image: PGD on the bare network, from the image itself."""
        return ascend(lambda p: cross_entropy(self.surface.base(p), self.y), self.x, step, self.project, steps)

    def random(self, restart: int, corner: bool = False) -> Images:
        """Draw a random point of the ball, or of its corners, keyed by `restart`."""
        drawn = self.ctx.noise(f"start:{restart}")
        return self.project(self.x + self.eps * (drawn.sign() if corner else drawn))

    def run(self, start: Images, held: Labels | None = None, both: bool = False) -> None:
        """Attack the standing examples from `start`; `held` and `both` are those of `surface.ascent`."""
        left = (~self.broken).nonzero().squeeze(1)
        if not len(left):
            return
        ends = self.x.clone()
        ends[left] = ascent(
            self.surface, self.x[left], self.y[left], self.eps, start[left], self.steps, self.step, loss=self.loss,
            held=None if held is None else held[left], both=both,
        )  # fmt: skip
        # Asked of the whole batch, as the judge will: rounding in another batch may turn a sign that hangs on nothing.
        with torch.no_grad():
            wins = misclassified(self.model(ends), self.y) & ~self.broken
        self.first = where_rows(wins, ends, self.first)
        self.last = ends if self.last is None else where_rows(wins, ends, self.last)
        self.broken |= wins

    def result(self) -> Result:
        """Return the ends as `last`, and the successes as `any`, clean where there is none."""
        return Result(last=cast("Images", self.last), any=self.first)
