"""The recipes of the paper, by dataset.

Its code counts epochs from 1, so that its 75 is 74 here.
"""

from dataclasses import replace
from fractions import Fraction

from harness.api import InnerAttack, Recipe

CIFAR = Recipe(
    name="paper", arch="resnet18", epochs=120, batch=128, lr=0.01, optimizer="sgd", momentum=0.9, weight_decay=2e-4,
    schedule="steps", milestones=(74, 89, 99), augment="crop-flip",
    inner=InnerAttack(steps=10, eps=Fraction(8, 255), step=Fraction(7, 1000), start="normal"),
    source="the code of ANCRA for CIFAR-10; its README says lr 0.1",
)  # fmt: skip
TINY = replace(
    CIFAR, arch="preact_resnet18", lr=0.1, weight_decay=5e-4, augment="none",
    source="the code of ANCRA for Tiny-ImageNet",
)  # fmt: skip
RECIPES = {"cifar10": (CIFAR,), "tiny-imagenet": (TINY,)}
