"""The attacks: which stages run with which lengths."""

from collections.abc import Callable

from harness.api import NotApplicable
from harness_autoattack import FEW_CLASS_STAGES, STAGES
from harness_autoattack.driver import in_sequence

UNTARGETED = ("apgd_ce", "apgd_dlr", "apgd_margin", "fab")
TARGETED = ("apgd_t", "apgd_ce_t", "fab_t")


def standard(model, x, y, threat, *, ctx, steps, restarts, targets, queries, restarts_l1, targets_l1):
    """The published standard version; the l1 numbers are those of APGD there, FAB keeps its `targets`."""
    sparse = threat.kind == "l1"
    return in_sequence(
        model, x, y, threat, ctx, _from(5, "aa_standard"), steps=steps, queries=queries,
        restarts={"apgd_ce": restarts_l1 if sparse else restarts},
        targets={"apgd_t": targets_l1 if sparse else targets, "fab_t": targets},
    )  # fmt: skip


def plus(model, x, y, threat, *, ctx, steps, restarts, targets, queries):
    return in_sequence(
        model, x, y, threat, ctx, _from(5, "aa_plus"), steps=steps, queries=queries,
        restarts=dict.fromkeys(UNTARGETED, restarts), targets=dict.fromkeys(TARGETED, targets),
    )  # fmt: skip


def rand(model, x, y, threat, *, ctx, steps, restarts, eot, confirmations):
    """An image counts as found where most of `confirmations` predictions get it wrong; one may be luck."""
    return in_sequence(
        model, x, y, threat, ctx, _from(3, "aa_rand"), confirmations, steps=steps, eot=eot,
        restarts=dict.fromkeys(UNTARGETED, restarts),
    )  # fmt: skip


def few_class(model, x, y, threat, *, ctx, steps, restarts, targets, queries):
    def stages(classes: int) -> tuple[str, ...]:
        if classes not in FEW_CLASS_STAGES:
            raise NotApplicable(f"aa_few_class is for two to four classes, here are {classes}: use aa_standard")
        return FEW_CLASS_STAGES[classes]

    return in_sequence(
        model, x, y, threat, ctx, stages, steps=steps, queries=queries,
        restarts=dict.fromkeys(UNTARGETED, restarts), targets=dict.fromkeys(TARGETED, targets),
    )  # fmt: skip


def apgd_ce(model, x, y, threat, *, ctx, steps, restarts):
    return _one("apgd_ce", 2, model, x, y, threat, ctx, restarts, steps=steps)


def apgd_dlr(model, x, y, threat, *, ctx, steps, restarts):
    return _one("apgd_dlr", 3, model, x, y, threat, ctx, restarts, steps=steps)


def apgd_t(model, x, y, threat, *, ctx, steps, restarts, targets):
    return _one("apgd_t", 4, model, x, y, threat, ctx, restarts, steps=steps, targets={"apgd_t": targets})


def fab(model, x, y, threat, *, ctx, steps, restarts):
    return _one("fab", 2, model, x, y, threat, ctx, restarts, steps=steps)


def fab_t(model, x, y, threat, *, ctx, steps, restarts, targets):
    return _one("fab_t", 2, model, x, y, threat, ctx, restarts, steps=steps, targets={"fab_t": targets})


def square(model, x, y, threat, *, ctx, queries, restarts):
    return _one("square", 2, model, x, y, threat, ctx, restarts, queries=queries)


def _one(stage, least, model, x, y, threat, ctx, restarts, **lengths):
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
