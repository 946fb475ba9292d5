"""Accuracy by epoch under each attack, on training and on test images: when a training overfits, and to what."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.api import Quantity, ThreatModel
from harness_tpap.overfitting import BATCH

if TYPE_CHECKING:
    from torch import nn

    from harness.api import AnalysisContext, LoadedPart, PeerAttack

ATTACKS = ("fgsm", "pgd-10", "pgd-20", "cw_inf-20")
GAP = 40.0
"""By how many points FGSM must leave more than PGD-20 for a network to count as overfitted to one step."""


def overfitting_course(ctx: AnalysisContext, *, every: int) -> dict[str, Quantity]:
    """Train the network again; attack it, without purification, after every so many epochs and after the last.

    On the test images to use and on as many training images, at the eps of training; a random start is the same at
    every epoch. `overfitted_from_epoch`: the first one looked at with the gap, None where it never opens.
    `same_weights`: 1 where the weights of the subject resulted.

    Raises:
        NotApplicable: where there is no training to follow.
        UsageError: for `every` below 1.
    """
    training = ctx.training_to_follow()
    n, epochs = len(ctx.examples), training.recipe.epochs
    parts = {"test": (ctx.test, ctx.examples), "train": (training.train, np.arange(min(n, len(training.train))))}
    threat = ThreatModel(kind="linf", eps=Fraction(str(training.eps)))
    crafts = {attack: ctx.attack(attack, threat) for attack in ATTACKS}
    seen: dict[int, dict[str, float]] = {}

    def after_epoch(network: nn.Module, done: int) -> None:
        seen[done] = {
            f"{part}_{name}": value
            for part, (images, examples) in parts.items()
            for name, value in accuracies(network, images, examples, crafts, ctx.device).items()
        }

    same = ctx.train_again(after_epoch=after_epoch, every=every)
    found = {
        f"{name}_at_epoch_{done:03d}": Quantity(value, len(parts[name.partition("_")[0]][1]), "%")
        for done, values in seen.items()
        for name, value in values.items()
    }
    last = seen[epochs]
    gaps = {done: values["test_fgsm"] - values["test_pgd-20"] for done, values in seen.items()}
    from_epoch = next((done for done, gap in gaps.items() if gap > GAP), None)
    return found | {
        "eps": Quantity(training.eps, 1, "pixel range"),
        "epochs": Quantity(epochs, 1, "epochs"),
        "overfitted_from_epoch": Quantity(from_epoch, 0 if from_epoch is None else len(seen), "epochs"),
        "final_gap": Quantity(gaps[epochs], n, "points"),
        "final_gap_of_train_and_test_fgsm": Quantity(last["train_fgsm"] - last["test_fgsm"], n, "points"),
        "same_weights": Quantity(float(same), 1, "1 = yes"),
    }


def accuracies(
    network: nn.Module, part: LoadedPart, examples: np.ndarray, crafts: Mapping[str, PeerAttack], device: torch.device
) -> dict[str, float]:
    """Measure the accuracy on images of a part, clean and under each attack, in per cent."""
    right = dict.fromkeys(("clean", *crafts), 0)
    for start in range(0, len(examples), BATCH):
        chosen = examples[start : start + BATCH]
        x, y = part.batch(chosen, device)
        images = {"clean": x} | {name: craft(network, x, y, chosen.tolist()) for name, craft in crafts.items()}
        with torch.no_grad():
            for name, attacked in images.items():
                right[name] += int((network(attacked).argmax(dim=1) == y).sum())
    return {name: 100 * count / len(examples) for name, count in right.items()}
