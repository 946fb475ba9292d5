"""How a class of torchattacks 3.5.1 is described. Parameters and defaults are its own, but for what a run knows better.

A run knows the budget, the norm, the number of classes and the seed; `alpha` is called `step`, as everywhere here.
"""

from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from typing import Any

from harness.api import Attack, OneOf, lazy

EXCLUDED = {
    "VANILA": "returns the images unchanged: `clean` does",
    "MultiAttack": "a wrapper that runs other attacks one after the other, on every one of which there is a row here",
    "LGV": "a wrapper that first trains forty copies of the model, with a loader of training images",
}
"""Classes without a row."""

KEPT = {
    "verbose": "False: nothing is printed",
    "batch_max": "2048: a limit on memory",
    "inf_batch": "128: a limit on memory",
    "eps_for_division": "1e-10",
    "x_dimensions": "(2, 10)",
    "y_dimensions": "(2, 10)",
    "pixel_mapping": "random: the others write rows into columns",
    "update_each_iteration": "False: the other way takes one image only",
}
"""Parameters that keep torchattacks' default: no number or text, of no effect on a result, or broken."""

LINF_STEP = Fraction(2, 255)
L2_STEP = Fraction(1, 5)
TRIAL_STEP = Fraction(1, 20)
"""For contract tests, whose budgets are not those that torchattacks' default steps are made for."""
NOISE = OneOf(("guassian", "uniform"))
"""Spelled as torchattacks spells it."""


def described(
    name: str, threats: tuple[str, ...], params: Mapping[str, Any], *, min_classes: int = 2, **fields: Any
) -> Attack:
    """The row of a class."""
    return Attack(
        name=f"torchattacks/{name.lower()}",
        run=partial(lazy("harness_torchattacks.adapter:run"), name, min_classes),
        threats=threats,
        params=params,
        min_classes=min_classes,
        **fields,
    )


def stepwise(name: str, params: Mapping[str, Any], **fields: Any) -> Attack:
    """The row of a class that takes `steps` of size `step` in the linf ball."""
    trial = {"step": TRIAL_STEP, **fields.pop("trial", {})}
    return described(name, ("linf",), {"step": LINF_STEP, "steps": 10, **params}, trial=trial, **fields)
