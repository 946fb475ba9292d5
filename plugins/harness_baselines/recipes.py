"""The recipes of the papers, by dataset, the default first.

Milestones count epochs from 0, as TPAP does; TRADES and MART count from 1, so that their 75 is 74 here.
"""

from dataclasses import replace
from fractions import Fraction

from harness.api import InnerAttack, Recipe

PGD = InnerAttack(steps=10, eps=Fraction(31, 1000), step=Fraction(7, 1000), start="normal")
WATCHED = "the inner attack only watches: training takes one step of its eps"

TRADES_CIFAR10 = Recipe(
    name="trades", arch="wrn34_10", epochs=76, batch=128, lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=2e-4,
    schedule="steps", milestones=(74,), augment="crop-flip", inner=PGD, source="the code of TRADES; beta 6",
)  # fmt: skip
MART_RESNET = Recipe(
    name="mart", arch="resnet18", epochs=120, batch=128, lr=0.01, optimizer="sgd", momentum=0.9, weight_decay=3.5e-3,
    schedule="steps", milestones=(74, 89, 99), augment="crop-flip", inner=PGD, source="the code of MART; beta 5",
)  # fmt: skip
MART_WIDE = replace(
    MART_RESNET, name="mart-wide", arch="wrn34_10", epochs=90, lr=0.1, weight_decay=7e-4, milestones=(74, 89),
    source="the code of MART for wide networks; beta 6",
)  # fmt: skip
FAST = Recipe(
    name="fast", arch="preact_resnet18", epochs=15, batch=128, lr=0.2, optimizer="sgd", momentum=0.9,
    weight_decay=5e-4, schedule="cosine", augment="crop-flip",
    inner=InnerAttack(steps=10, eps=Fraction(8, 255), step=Fraction(2, 255)),
    source=f"Wong et al. 2020; cosine of the same peak and mean for their cyclic rate, no early stop, "
    f"inputs not normalised; {WATCHED}",
)  # fmt: skip

TPAP = Recipe(
    name="tpap", arch="resnet18", epochs=120, batch=128, lr=0.01, optimizer="sgd", momentum=0.9, weight_decay=1e-3,
    schedule="steps", milestones=(75, 90, 110), augment="crop-flip", inner=PGD,
    source="the PGD training of TPAP's code; beta 6; batch 64 with a wide network",
)  # fmt: skip
TPAP_PLAIN = replace(TPAP, augment="none")
TPAP_FGSM = replace(
    TPAP, name="tpap-fgsm", epochs=100, milestones=(75, 90),
    inner=InnerAttack(steps=20, eps=Fraction(8, 255), step=Fraction(3, 1000)),
    source=f"the FGSM training of TPAP's code; beta 6; batch 64 with a wide network; {WATCHED}",
)  # fmt: skip
TPAP_SLIDES = replace(
    TPAP_FGSM, name="tpap-slides", epochs=150, source=f"the slides of TPAP, 150 epochs for the code's 100; {WATCHED}"
)
TPAP_FGSM_CIFAR100 = replace(
    TPAP_FGSM, epochs=150, milestones=(75, 90, 140), inner=replace(TPAP_FGSM.inner, eps=Fraction(12, 255)),
    source=f"the FGSM training of TPAP's code for CIFAR-100, at 12/255; {WATCHED}",
)  # fmt: skip
TPAP_FGSM_PLAIN = replace(TPAP_FGSM, augment="none")

PGD_AT = {"cifar10": (TPAP,), "cifar100": (TPAP,), "svhn": (TPAP_PLAIN,)}
FGSM_AT = {"cifar10": (TPAP_FGSM, TPAP_SLIDES), "cifar100": (TPAP_FGSM_CIFAR100,), "svhn": (TPAP_FGSM_PLAIN,)}
FAST_AT = {"cifar10": (FAST,)}
TRADES = {
    "cifar10": (TRADES_CIFAR10, TPAP, TPAP_FGSM),
    "cifar100": (TPAP, TPAP_FGSM_CIFAR100),
    "svhn": (TPAP_PLAIN, TPAP_FGSM_PLAIN),
}
MART = {
    "cifar10": (MART_RESNET, MART_WIDE, TPAP, TPAP_FGSM),
    "cifar100": (TPAP, TPAP_FGSM_CIFAR100),
    "svhn": (TPAP_PLAIN, TPAP_FGSM_PLAIN),
}
