"""The recipes of the paper, by dataset.

Its code counts epochs from 1, so that its 75 is 74 here. It keeps the last weights and those that are best on the test
images; the last ones are used here.
"""

from dataclasses import replace
from fractions import Fraction

from harness.api import InnerAttack, Recipe

CODE = "changzhang777/ANCRA, TRADES-ANCRA"

CIFAR10 = Recipe(
    name="ancra", arch="resnet18", epochs=120, batch=128, lr=0.01, optimizer="sgd", momentum=0.9, weight_decay=2e-4,
    schedule="steps", milestones=(74, 89, 99), augment="crop-flip",
    inner=InnerAttack(steps=10, eps=Fraction(8, 255), step=Fraction(7, 1000), start="normal"),
    source=f"{CODE}/train_CIFAR10_ResNet.py, lines 20 to 39, 87 to 91 and 460 to 470; "
    "train_CIFAR10_WideResNet.py has the same settings",
)  # fmt: skip
CIFAR100 = replace(
    CIFAR10,
    source=f"{CODE}/train_CIFAR10_ResNet.py, lines 20 to 39, 87 to 91 and 460 to 470, whose data loader is changed "
    "for CIFAR-100, as README.md says in commits 9642f89 and 8c540d0",
)
TINY = replace(
    CIFAR10, arch="preact_resnet18", lr=0.1, weight_decay=5e-4, augment="none",
    source=f"{CODE}/train_Tiny_ImageNet_PreActResNet.py, lines 23 to 41, 438 to 446 and 452 to 454",
)  # fmt: skip
RECIPES = {"cifar10": (CIFAR10,), "cifar100": (CIFAR100,), "tiny-imagenet": (TINY,)}
