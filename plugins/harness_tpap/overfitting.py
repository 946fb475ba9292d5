"""Catastrophic overfitting, which purification needs: one step no longer fools the network, several still do."""

from fractions import Fraction

import torch

from harness.api import Quantity, ThreatModel

BATCH = 250


def overfitting(ctx):
    """Accuracy of the bare network under FGSM and PGD-20, at the eps it was trained with and at the dataset's own.

    Where the weights were given and nobody knows the eps of their training, the purification's counts, then the
    dataset's.
    """
    own = ctx.budget("linf")
    told = ctx.training.eps if ctx.training else ctx.defense_params.get("strength", own)
    found = {}
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


def accuracy_under(ctx, attack, eps):
    """In per cent, of the bare network."""
    craft = ctx.attack(attack, threat=ThreatModel(kind="linf", eps=eps))
    right = 0
    for examples, x, y in batches(ctx):
        x_adv = craft(ctx.network, x, y, examples)
        with torch.no_grad():
            right += int((ctx.network(x_adv).argmax(dim=1) == y).sum())
    return 100 * right / len(ctx.examples)


def batches(ctx):
    """The test images to use, a piece at a time: their indices, the images and their labels."""
    for start in range(0, len(ctx.examples), BATCH):
        examples = ctx.examples[start : start + BATCH]
        yield (examples.tolist(), *ctx.test.batch(examples, ctx.device))
