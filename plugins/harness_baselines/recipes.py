"""The recipes of the papers, by dataset, the default first.

Milestones count epochs from 0. TRADES and MART count from 1, so that their 75 is 74 here. TPAP counts from 0; its
script for FGSM on CIFAR-100 steps its schedule after the epoch, so that its 75 is 76.
"""

from dataclasses import replace
from fractions import Fraction

from harness.api import InnerAttack, Recipe

PGD = InnerAttack(steps=10, eps=Fraction(31, 1000), step=Fraction(7, 1000), start="normal")
WATCHED = "the inner attack only watches: training takes one step of its eps"

TRADES_CIFAR10 = Recipe(
    name="trades", arch="wrn34_10", epochs=76, batch=128, lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=2e-4,
    schedule="steps", milestones=(74,), augment="crop-flip", inner=PGD,
    source="yaodongyu/TRADES, train_trades_cifar10.py, lines 16 to 37 and 140; beta 6",
)  # fmt: skip
TRADES_MNIST = Recipe(
    name="trades", arch="small_cnn[zero_head=true]", epochs=100, batch=128, lr=0.01, optimizer="sgd", momentum=0.9,
    schedule="steps", milestones=(54, 74, 89),
    inner=InnerAttack(steps=40, eps=Fraction(3, 10), step=Fraction(1, 100), start="normal"),
    source="yaodongyu/TRADES, train_trades_mnist.py, lines 16 to 35 and 132 to 150; its beta is 1: `trades[beta=1.0]`",
)  # fmt: skip
MART_RESNET = Recipe(
    name="mart", arch="resnet18", epochs=120, batch=128, lr=0.01, optimizer="sgd", momentum=0.9, weight_decay=3.5e-3,
    schedule="steps", milestones=(74, 89, 99), augment="crop-flip", inner=PGD,
    source="YisenWang/MART, train_resnet.py, lines 21 to 42 and 109 to 117; beta 5",
)  # fmt: skip
MART_WIDE = replace(
    MART_RESNET, name="mart-wide", arch="wrn34_10", epochs=90, lr=0.1, weight_decay=7e-4, milestones=(74, 89),
    source="YisenWang/MART, train_wideresnet.py, lines 21 to 42 and 109 to 117; its beta is 6: `mart[beta=6.0]`",
)  # fmt: skip
FAST = Recipe(
    name="fast", arch="preact_resnet18", epochs=15, batch=128, lr=0.2, optimizer="sgd", momentum=0.9,
    weight_decay=5e-4, schedule="cyclic", augment="crop-flip",
    inner=InnerAttack(steps=10, eps=Fraction(8, 255), step=Fraction(2, 255)),
    source=f"locuslab/fast_adversarial, CIFAR10/train_fgsm.py, lines 22 to 33; inputs not normalised; {WATCHED}",
)  # fmt: skip

TPAP = Recipe(
    name="tpap", arch="resnet18", epochs=120, batch=128, lr=0.01, optimizer="sgd", momentum=0.9, weight_decay=1e-3,
    schedule="steps", milestones=(75, 90, 110), augment="crop-flip", inner=PGD,
    source="tly18/TPAP, train_pgd_at_cifar10.py, lines 96 to 131 and 148; batch of TPAP_cifar100/train_pgd_at_cifar100"
    ".py, line 115; beta 6",
)  # fmt: skip
TPAP_SVHN = replace(
    TPAP, augment="none", source="tly18/TPAP, TPAP_SVHN/train_pgd_at_SVHN.py, lines 107 to 147 and 169; beta 6"
)
TPAP_TINY = replace(
    TPAP, epochs=100, milestones=(75, 90), augment="flip",
    source="tly18/TPAP, TPAP_tiny_imagenet/train_pgd_at_tiny.py, lines 126 to 168 and 192; beta 6",
)  # fmt: skip

TPAP_FGSM = replace(
    TPAP, name="tpap-fgsm", epochs=100, milestones=(75, 90),
    inner=InnerAttack(steps=20, eps=Fraction(8, 255), step=Fraction(3, 1000)),
    source=f"tly18/TPAP, train_fgsm_at_cifar10_TPAP.py, lines 131 to 173 and 247; beta 6; {WATCHED}",
)  # fmt: skip
TPAP_SLIDES = replace(
    TPAP_FGSM, name="tpap-slides", epochs=150, source=f"the slides of TPAP, 150 epochs for the code's 100; {WATCHED}"
)
TPAP_FGSM_CIFAR100 = replace(
    TPAP_FGSM, epochs=150, milestones=(76, 91, 141), inner=replace(TPAP_FGSM.inner, eps=Fraction(12, 255)),
    source="tly18/TPAP, TPAP_cifar100/train_fgsm_at_CIFAR100_TPAP.py, lines 105 to 142 and 191, at 12/255; beta 6; "
    f"{WATCHED}",
)  # fmt: skip
TPAP_FGSM_SVHN = replace(
    TPAP_FGSM, augment="none",
    source=f"tly18/TPAP, TPAP_SVHN/train_FGSM-AT_svhn.py, lines 102 to 146 and 203; beta 6; {WATCHED}",
)  # fmt: skip
TPAP_FGSM_TINY = replace(
    TPAP_FGSM, batch=64, augment="flip",
    source=f"tly18/TPAP, TPAP_tiny_imagenet/train_fgsm_at_tiny.py, lines 112 to 161; beta 6; {WATCHED}",
)  # fmt: skip

SIMPLE_STRUCTURE = Recipe(
    name="simple-structure", arch="resnet34", epochs=150, batch=64, lr=0.01, optimizer="sgd", momentum=0.9,
    weight_decay=5e-4, augment="resized-crop-flip", inner=InnerAttack(steps=7),
    source="dowdyboy/simple_structure_for_robust_model, aisafe_glaring/aisafe_train_resnet.py, lines 22 to 38 and 67 "
    "to 72; the last epoch for the one that is best on its test images; the inner attack only watches",
)  # fmt: skip


def wide(recipe: Recipe) -> Recipe:
    """Make TPAP's recipe for wide networks, with its batch of 64, of the one for others."""
    return replace(
        recipe, name=f"{recipe.name}-wide", arch="wrn34_10", batch=64, source=f"{recipe.source}; batch 64 as for WRN-34"
    )


def with_wide(*recipes: Recipe) -> tuple[Recipe, ...]:
    """Put the recipes for wide networks behind the others, where the code has another batch for them."""
    return (*recipes, *(wide(recipe) for recipe in recipes if recipe.augment != "flip"))


def clean(recipe: Recipe) -> Recipe:
    """Make the recipe of TPAP's row Clean, which its code has no script for, of that of its PGD training."""
    return replace(
        recipe, epochs=150, milestones=(75, 90),
        source="the slides of TPAP say SGD, 150 epochs, 0.01 and a tenth of it at 75 and at 90; the rest as its PGD "
        f"training in {recipe.source.removesuffix('; beta 6')}; the inner attack only watches",
    )  # fmt: skip


OF_PGD = {"cifar10": TPAP, "cifar100": TPAP, "svhn": TPAP_SVHN, "tiny-imagenet": TPAP_TINY}
OF_FGSM = {
    "cifar10": TPAP_FGSM,
    "cifar100": TPAP_FGSM_CIFAR100,
    "svhn": TPAP_FGSM_SVHN,
    "tiny-imagenet": TPAP_FGSM_TINY,
}

RAW = {name: with_wide(clean(recipe)) for name, recipe in OF_PGD.items()}
RAW["cifar10"] = (*RAW["cifar10"], SIMPLE_STRUCTURE)
PGD_AT = {name: with_wide(recipe) for name, recipe in OF_PGD.items()}
FGSM_AT = {name: with_wide(recipe) for name, recipe in OF_FGSM.items()}
FGSM_AT["cifar10"] = (*FGSM_AT["cifar10"], TPAP_SLIDES)
FAST_AT = {"cifar10": (FAST,)}
TRADES = {"cifar10": (TRADES_CIFAR10,)}
MART = {"cifar10": (MART_RESNET, MART_WIDE)}
MORE_MART = {name: with_wide(recipe, OF_FGSM[name]) for name, recipe in OF_PGD.items()}
"""How TPAP trains MART, and TRADES too: on PGD or on FGSM examples."""
MORE_TRADES = {**MORE_MART, "mnist": (TRADES_MNIST,)}
"""Its own for MNIST is found by name, so that defenses on MNIST train alike unless told otherwise."""
