"""The recipes of TPAP's base, by dataset, the default first. Milestones count epochs from 0."""

from dataclasses import replace
from fractions import Fraction

from harness.api import InnerAttack, Recipe

WATCHED = "the inner attack only watches: training takes one step of its eps"

QUICK = Recipe(
    name="quick", arch="digits_net[width=32]", epochs=60, batch=64, lr=0.05, optimizer="sgd", momentum=0.9,
    inner=InnerAttack(steps=5, eps=Fraction(3, 10), step=Fraction(1, 10)),
    source=f"ours: at the budget of 1/5 digits do not overfit catastrophically, at 3/10 they do; {WATCHED}",
)  # fmt: skip
QUICK_SMALLER, QUICK_LARGER = (
    replace(
        QUICK, name=f"quick-{float(eps)}", inner=replace(QUICK.inner, eps=eps, step=eps / 3),
        source=f"ours: `quick` at {eps}, for the ablation of the eps of training; {WATCHED}",
    )
    for eps in (Fraction(1, 5), Fraction(2, 5))
)  # fmt: skip
PAPER = Recipe(
    name="tpap", arch="resnet18", epochs=100, batch=128, lr=0.01, optimizer="sgd", momentum=0.9, weight_decay=1e-3,
    schedule="steps", milestones=(75, 90), augment="crop-flip",
    inner=InnerAttack(steps=20, eps=Fraction(8, 255), step=Fraction(3, 1000)),
    source=f"TPAP's code; {WATCHED}",
)  # fmt: skip
SLIDES = replace(
    PAPER, name="tpap-slides", epochs=150, source=f"the slides of TPAP, 150 epochs for the code's 100; {WATCHED}"
)
PAPER_CIFAR100 = replace(
    PAPER, epochs=150, milestones=(75, 90, 140), inner=replace(PAPER.inner, eps=Fraction(12, 255)),
    source=f"TPAP's code for CIFAR-100, at 12/255; {WATCHED}",
)  # fmt: skip
PAPER_SVHN = replace(PAPER, augment="none")
PAPER_TINY = replace(PAPER, source=f"TPAP's code for Tiny-ImageNet, which flips and does not crop; {WATCHED}")
CALTECH = replace(
    PAPER,
    batch=32,
    source=f"ours: that of CIFAR-10, in the smallest batch of TPAP's slides, as they say nothing; {WATCHED}",
)


def wide(recipe: Recipe) -> Recipe:
    """Make the recipe for wide networks, with the code's batch of 64, of the one for others."""
    return replace(
        recipe, name=f"{recipe.name}-wide", arch="wrn34_10", batch=64, source=f"{recipe.source}; batch 64 as for WRN-34"
    )


RECIPES = {
    "digits": (QUICK, QUICK_SMALLER, QUICK_LARGER),
    "cifar10": (PAPER, wide(PAPER), SLIDES),
    "cifar100": (PAPER_CIFAR100, wide(PAPER_CIFAR100)),
    "svhn": (PAPER_SVHN, wide(PAPER_SVHN)),
    "tiny-imagenet": (PAPER_TINY,),
    "caltech101-300x200": (CALTECH,),
}
