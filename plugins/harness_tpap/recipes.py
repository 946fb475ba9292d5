"""The recipes of TPAP's base, by dataset, the default first.

Milestones count epochs from 0. The script for CIFAR-100 steps its schedule after the epoch, so that its 75 is 76.
"""

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
CIFAR10 = Recipe(
    name="tpap", arch="resnet18", epochs=100, batch=128, lr=0.01, optimizer="sgd", momentum=0.9, weight_decay=1e-3,
    schedule="steps", milestones=(75, 90), augment="crop-flip",
    inner=InnerAttack(steps=20, eps=Fraction(8, 255), step=Fraction(3, 1000)),
    source=f"tly18/TPAP, train_fgsm_at_cifar10_TPAP.py, lines 131 to 179 and 247; {WATCHED}",
)  # fmt: skip
SLIDES = replace(
    CIFAR10, name="tpap-slides", epochs=150, source=f"the slides of TPAP, 150 epochs for the code's 100; {WATCHED}"
)
CIFAR100 = replace(
    CIFAR10, epochs=150, milestones=(76, 91, 141), inner=replace(CIFAR10.inner, eps=Fraction(12, 255)),
    deploy_eps=Fraction(8, 255),
    source="tly18/TPAP, TPAP_cifar100/train_fgsm_at_CIFAR100_TPAP.py, lines 105 to 142 and 191: trained at 12/255, "
    f"purified at 8/255; {WATCHED}",
)  # fmt: skip
SVHN = replace(
    CIFAR10, augment="none",
    source=f"tly18/TPAP, TPAP_SVHN/train_FGSM-AT_svhn.py, lines 102 to 147 and 203; {WATCHED}",
)  # fmt: skip
TINY = replace(
    CIFAR10, batch=64, augment="flip",
    source=f"tly18/TPAP, TPAP_tiny_imagenet/train_fgsm_at_tiny_TPAP.py, lines 90 to 135; {WATCHED}",
)  # fmt: skip
CALTECH = replace(
    SLIDES, batch=32,
    source=f"the slides of TPAP, which give this data set no settings of its own: their smallest batch; {WATCHED}",
)  # fmt: skip


def wide(recipe: Recipe) -> Recipe:
    """Make the recipe for wide networks, with the code's batch of 64, of the one for others.

    Tiny-ImageNet has that batch for every network.
    """
    return replace(
        recipe, name=f"{recipe.name}-wide", arch="wrn34_10", batch=64, source=f"{recipe.source}; batch 64 as for WRN-34"
    )


RECIPES = {
    "digits": (QUICK, QUICK_SMALLER, QUICK_LARGER),
    "cifar10": (CIFAR10, wide(CIFAR10), SLIDES),
    "cifar100": (CIFAR100, wide(CIFAR100)),
    "svhn": (SVHN, wide(SVHN)),
    "tiny-imagenet": (TINY,),
    "caltech101-300x200": (CALTECH,),
}
OURS = {"digits": RECIPES["digits"]}
"""For what is no training of TPAP's: its purifier on other bases, which the recipes of its FGSM training do not fit."""
