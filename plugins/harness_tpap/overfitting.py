"""Catastrophic overfitting, which purification needs: FGSM no longer fools the network, several steps do."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from harness.api import Quantity, ThreatModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.api import AnalysisContext, Images, Labels

BATCH = 250


def overfitting(ctx: AnalysisContext) -> dict[str, Quantity]:
    """Measure the accuracy of the bare network under FGSM and PGD-20, at the eps of training and of the dataset.

    Where the weights were given and nobody knows the eps of their training, the purification's counts, then the
    dataset's.
    """
    own = ctx.budget("linf")
    told = ctx.training.eps if ctx.training else ctx.defense_params.get("strength", own)
    found: dict[str, Quantity] = {}
    for eps, suffix in ((Fraction(str(told)), ""), (own, "_at_budget")):
        fgsm, pgd = (accuracy_under(ctx, attack, eps) for attack in ("fgsm", "pgd-20"))
        n = len(ctx.examples)
        found |= {
            f"eps{suffix}": Quantity(float(eps), 1, "pixel range"),
            f"fgsm_accuracy{suffix}": Quantity(fgsm, n, "%"),
            f"pgd20_accuracy{suffix}": Quantity(pgd, n, "%"),
            f"gap{suffix}": Quantity(fgsm - pgd, n, "points"),
        }
    return found


def accuracy_under(ctx: AnalysisContext, attack: str, eps: Fraction) -> float:
    """Measure the accuracy of the bare network under an attack at eps, in per cent."""
    craft = ctx.attack(attack, threat=ThreatModel(kind="linf", eps=eps))
    right = 0
    for examples, x, y in batches(ctx):
        x_adv = craft(ctx.network, x, y, examples)
        with torch.no_grad():
            right += int((ctx.network(x_adv).argmax(dim=1) == y).sum())
    return 100 * right / len(ctx.examples)


def batches(ctx: AnalysisContext) -> Iterator[tuple[list[int], Images, Labels]]:
    """Yield the test images to use, a batch at a time: their indices, the images and their labels."""
    for start in range(0, len(ctx.examples), BATCH):
        examples = ctx.examples[start : start + BATCH]
        yield (examples.tolist(), *ctx.test.batch(examples, ctx.device))
