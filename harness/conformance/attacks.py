"""What every attack is held to. The linear toy has an exact answer: the radius is the margin over the dual norm."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from harness.conformance import toys
from harness.conformance.report import CheckResult, NotApplicable, run_checks
from harness.conformance.trial import Trial
from harness.evaluation.call import run_attack
from harness.evaluation.judge import Judge
from harness.evaluation.oracle import Oracle
from harness.types import Attack, ThreatKind, ThreatModel, Value

if TYPE_CHECKING:
    from harness.types import Images

INSIDE = Fraction(9, 10)
OUTSIDE = Fraction(101, 100)
OUTSIDE_MINIMAL = Fraction(21, 20)
"""Attacks for the smallest perturbation stop a little beyond the boundary, and some round to pixel levels."""


def check_attack(attack: Attack, kinds: Iterable[ThreatKind] = ()) -> list[CheckResult]:
    """Hold an attack to every contract that applies to it; `kinds` are threat kinds besides the built-in ones."""
    return run_checks(Trial.of(attack, kinds), CONTRACTS)


def _valid(trial: Trial) -> None:
    """Check that images are inside the threat model, the model is unchanged and images reported as broken are."""
    x, y = toys.images()
    for threat in trial.threats():
        result = trial.measured(toys.tiny_net(), x, y, threat, 4)
        unexpected = set(result.flags) - {"out_of_range"}
        assert not unexpected, f"raised {result.flags} under {threat}"


def _zero_budget(trial: Trial) -> None:
    """Check that eps = 0 gives the clean images back, bit for bit."""
    budgets = [threat for threat in trial.threats() if threat.eps is not None]
    if not budgets or trial.attack.minimal:
        raise NotApplicable("it has no budget")
    x, y = toys.images()
    for threat in budgets:
        result = trial.run(toys.tiny_net(), x, y, ThreatModel(kind=threat.kind, eps=Fraction(0)))
        assert torch.equal(result.last, x), f"{threat.kind} with eps = 0 changed an image"


def _loses_inside(trial: Trial) -> None:
    """Check that no image is broken at 0.9 of the exact radius of a linear model."""
    for model, x, y, threat in trial.linear(INSIDE):
        won = trial.measured(model, x, y, threat, 2).any.count("1")
        assert not won, f"won on {won} of {len(x)} images that cannot be broken under {threat.kind}"


def _wins_outside(trial: Trial) -> None:
    """Check that a gradient attack breaks every image of a linear model at 1.01 of its exact radius (minimal: 1.05)."""
    attack = trial.attack
    if attack.access != "gradient":
        raise NotApplicable(f"{attack.access} access: nothing is promised in a few queries")
    if attack.as_published:
        raise NotApplicable("it reproduces a publication, whatever it can do")
    for model, x, y, threat in trial.linear(OUTSIDE_MINIMAL if attack.minimal else OUTSIDE):
        lost = trial.measured(model, x, y, threat, 2).any.count("0")
        assert not lost, f"failed on {lost} of {len(x)} images that a straight step breaks under {threat.kind}"


def _stronger_with_budget(trial: Trial) -> None:
    """Check that doubling the budget leaves at most one more image standing."""
    budgets = [(threat.kind, threat.eps) for threat in trial.threats() if threat.eps is not None]
    if not budgets or trial.attack.access != "gradient" or trial.attack.as_published:
        raise NotApplicable("it has no budget, or no gradient, or is as published")
    x, y = toys.images()
    for kind, eps in budgets:
        widths = [ThreatModel(kind=kind, eps=eps * share) for share in (Fraction(1, 2), Fraction(1), Fraction(2))]
        won = [trial.measured(toys.tiny_net(), x, y, width, 4).any.count("1") for width in widths]
        weaker = any(narrow > wide + 1 for narrow, wide in itertools.pairwise(won))
        assert not weaker, f"{kind}: breaks {won} images as the budget doubles"


def _repeatable(trial: Trial) -> None:
    """Check that two runs give the same images, whatever is drawn from the global generators in between."""
    x, y = toys.images()
    threat = trial.threats()[0]
    first = trial.run(toys.tiny_net(), x, y, threat)
    torch.rand(7)
    second = trial.run(toys.tiny_net(), x, y, threat)
    assert torch.equal(first.last, second.last), "two runs differ: is there randomness outside ctx.noise and the seed?"


def _one_by_one(trial: Trial) -> None:
    """Check that verdicts are the same for images in a batch and alone.

    The images must agree to 1e-4, unless the attack declares `verdicts_only`.
    """
    if trial.attack.batch_coupled:
        raise NotApplicable("it couples the images of a batch, and always gets the whole shard")
    x, y = toys.images()
    threat = trial.threats()[0]
    together = trial.run(toys.tiny_net(), x, y, threat).last
    apart = torch.cat([_alone(trial, x, y, threat, i) for i in range(len(x))])
    judge = Judge(toys.tiny_net(), 4, toys.SHAPE)
    assert torch.equal(judge.misclassified(apart, y, len(x)), judge.misclassified(together, y, len(x))), (
        "verdicts differ between a batch and single images"
    )
    difference = (apart - together).abs().amax()
    assert trial.attack.verdicts_only or difference <= 1e-4, (
        f"images differ by {difference:.1e} between a batch and single images"
    )


def _alone(trial: Trial, x: Images, y: torch.Tensor, threat: ThreatModel, index: int) -> Images:
    one = slice(index, index + 1)
    return trial.run(toys.tiny_net(), x[one], y[one], threat, offset=index).last


def _shift_invariant(trial: Trial) -> None:
    """Check that adding 100 or -100 to all logits changes at most one verdict."""
    x, y = toys.images()
    threat = trial.threats()[0]
    plain = trial.measured(toys.tiny_net(), x, y, threat, 4)
    for shift in (100.0, -100.0):
        shifted = trial.measured(toys.Shifted(toys.tiny_net(), shift), x, y, threat, 4)
        different = sum(a != b for a, b in zip(plain.any, shifted.any, strict=True))
        assert different <= 1, f"{different} verdicts changed when {shift:g} was added to all logits"


def _prefix(trial: Trial) -> None:
    """Check that snapshots of a longer run equal separate shorter runs, with restarts too.

    The images must be equal bit for bit, and the costs equal.
    """
    attack = trial.attack
    if attack.prefix is None:
        raise NotApplicable("it declares no prefix parameter")
    x, y = toys.images()
    wanted = (2, 5, 7)
    variants: list[dict[str, Value]] = [{}, {"restarts": 3}]
    for more in variants[: 1 + ("restarts" in attack.params)]:
        shared, costs = trial.snapshots(toys.tiny_net(), x, y, wanted, more)
        for steps in wanted:
            separate, cost = trial.snapshots(toys.tiny_net(), x, y, (steps,), more)
            assert torch.equal(shared[steps].last, separate[steps].last), f"last differs at {attack.prefix}={steps}"
            both = (shared[steps].any, separate[steps].any)
            assert both[0] is None or both[1] is None or torch.equal(both[0], both[1]), f"any differs at {steps}"
            assert costs.get(steps) == cost.get(steps), f"cost differs at {steps}: is ctx.reached called?"


def _spares_inputs(trial: Trial) -> None:
    """Check that it does not write to the images and labels that it is given."""
    x, y = toys.images()
    threat = trial.threats()[0]
    before = x.clone(), y.clone()
    oracle = Oracle(toys.tiny_net(), trial.attack.access)
    ctx = trial.context(oracle, x)

    class _Handed:
        """A tensor that `clone` gives out as it is, so that the attack gets the very tensor instead of a copy."""

        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def clone(self) -> torch.Tensor:
            return self.tensor

    handed = [_Handed(x), _Handed(y)]
    run_attack(trial.attack, oracle, handed[0], handed[1], threat, ctx, trial.params(threat))  # type: ignore[arg-type]
    assert torch.equal(x, before[0]), "it wrote to the images it was given"
    assert torch.equal(y, before[1]), "it wrote to the labels it was given"


CONTRACTS: dict[str, Callable[[Trial], None]] = {
    "keeps to the threat model": _valid,
    "eps 0 changes nothing": _zero_budget,
    "loses inside the exact radius": _loses_inside,
    "wins outside the exact radius": _wins_outside,
    "a larger budget is no weaker": _stronger_with_budget,
    "same twice": _repeatable,
    "same in a batch and alone": _one_by_one,
    "indifferent to shifted logits": _shift_invariant,
    "snapshots equal separate runs": _prefix,
    "spares its inputs": _spares_inputs,
}
