"""The ensembles and components of AutoAttack: which stages run, and for how long.

All of them raise NotApplicable where the model has too few classes for their losses, and UsageError where a length is
below 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.api import NotApplicable
from harness_autoattack import FEW_CLASS_STAGES, STAGES
from harness_autoattack.driver import in_sequence

if TYPE_CHECKING:
    from harness.api import AttackContext, Images, Labels, Oracle, Result, ThreatModel

UNTARGETED = ("apgd_ce", "apgd_dlr", "apgd_margin", "fab")
TARGETED = ("apgd_t", "apgd_ce_t", "fab_t")


def standard(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, restarts: int,
    targets: int, queries: int, restarts_l1: int, targets_l1: int,
) -> Result:  # fmt: skip
    """Run the published standard version.

    Under l1, `restarts_l1` and `targets_l1` are those of APGD; targeted FAB keeps `targets`.
    """
    sparse = threat.kind == "l1"
    return in_sequence(
        model, x, y, threat, ctx, _from(5, "aa_standard"), steps=steps, queries=queries,
        restarts={"apgd_ce": restarts_l1 if sparse else restarts},
        targets={"apgd_t": targets_l1 if sparse else targets, "fab_t": targets},
    )  # fmt: skip


def plus(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, restarts: int,
    targets: int, queries: int,
) -> Result:  # fmt: skip
    """Run the plus version: six stages, with `restarts` runs of those without a target."""
    return in_sequence(
        model, x, y, threat, ctx, _from(5, "aa_plus"), steps=steps, queries=queries,
        restarts=dict.fromkeys(UNTARGETED, restarts), targets=dict.fromkeys(TARGETED, targets),
    )  # fmt: skip


def rand(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, restarts: int,
    eot: int, confirmations: int,
) -> Result:  # fmt: skip
    """Run the version for random defenses: APGD on gradients averaged over `eot` passes.

    An image counts as found where most of `confirmations` predictions get it wrong; a single wrong one may be chance.
    """
    return in_sequence(
        model, x, y, threat, ctx, _from(3, "aa_rand"), confirmations, steps=steps, eot=eot,
        restarts=dict.fromkeys(UNTARGETED, restarts),
    )  # fmt: skip


def few_class(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, restarts: int,
    targets: int, queries: int,
) -> Result:  # fmt: skip
    """Run the stages whose losses two to four logits define.

    Raises:
        NotApplicable: for models with more classes.
    """

    def stages(classes: int) -> tuple[str, ...]:
        if classes not in FEW_CLASS_STAGES:
            raise NotApplicable(f"aa_few_class is for two to four classes, here are {classes}: use aa_standard")
        return FEW_CLASS_STAGES[classes]

    return in_sequence(
        model, x, y, threat, ctx, stages, steps=steps, queries=queries,
        restarts=dict.fromkeys(UNTARGETED, restarts), targets=dict.fromkeys(TARGETED, targets),
    )  # fmt: skip


def apgd_ce(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, restarts: int
) -> Result:
    """Run APGD on the cross-entropy."""
    return _one("apgd_ce", 2, model, x, y, threat, ctx, restarts, steps=steps)


def apgd_dlr(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, restarts: int
) -> Result:
    """Run APGD on the difference of logits ratio; needs three classes."""
    return _one("apgd_dlr", 3, model, x, y, threat, ctx, restarts, steps=steps)


def apgd_t(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, restarts: int,
    targets: int,
) -> Result:  # fmt: skip
    """Run APGD on the targeted difference of logits ratio; needs four classes."""
    return _one("apgd_t", 4, model, x, y, threat, ctx, restarts, steps=steps, targets={"apgd_t": targets})


def fab(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, restarts: int
) -> Result:
    """Run FAB without a target."""
    return _one("fab", 2, model, x, y, threat, ctx, restarts, steps=steps)


def fab_t(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, restarts: int,
    targets: int,
) -> Result:  # fmt: skip
    """Run FAB towards each of the `targets` likeliest other classes."""
    return _one("fab_t", 2, model, x, y, threat, ctx, restarts, steps=steps, targets={"fab_t": targets})


def square(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, queries: int, restarts: int
) -> Result:
    """Run Square: random search on scores, with squares of changed pixels."""
    return _one("square", 2, model, x, y, threat, ctx, restarts, queries=queries)


def _one(
    stage: str, least: int, model: Oracle, x: Images, y: Labels, threat: ThreatModel, ctx: AttackContext, restarts: int,
    **lengths: Any,
) -> Result:  # fmt: skip
    stages = _from(least, stage, (stage,))
    return in_sequence(model, x, y, threat, ctx, stages, restarts={stage: restarts}, **lengths)


def _from(least: int, name: str, stages: tuple[str, ...] = ()) -> Callable[[int], tuple[str, ...]]:
    """The stages of an attack whose losses need so many logits."""

    def chosen(classes: int) -> tuple[str, ...]:
        if classes < least:
            instead = ": use aa_few_class" if name.startswith("aa_") else ""
            raise NotApplicable(f"{name} needs at least {least} classes, here are {classes}{instead}")
        return stages or STAGES[name]

    return chosen
