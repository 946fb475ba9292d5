"""The ALP loss of both sets, test losses and accuracies over the epochs of a training (AALP figures 4 and 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.api import Quantity
from harness.ops import cross_entropy
from harness_aalp.attacked import answers, sets

if TYPE_CHECKING:
    from torch import nn

    from harness.api import AnalysisContext

MOST = 0.95
"""The part of the final accuracy on attacked images at which a training counts as converged."""


def pairing_course(ctx: AnalysisContext, *, every: int, attack: str) -> dict[str, Quantity]:
    """Train the network again, and measure it on test images after every so many epochs and after the last.

    Each network is attacked by itself. An image is in the set in which the last epoch puts it (v1 section 2.2). `loss`
    is the cross-entropy of clean plus that of attacked images whatever the method minimises, so that methods compare.
    `same_weights`: 1 where the weights of the subject resulted.

    Raises:
        NotApplicable: where there is no training to follow.
        UsageError: for `every` below 1.
    """
    craft = ctx.attack(attack)
    pairing: dict[int, torch.Tensor] = {}
    accuracies: dict[int, float] = {}
    members: dict[str, torch.Tensor] = {}
    found: dict[str, Quantity] = {}

    def after_epoch(network: nn.Module, done: int) -> None:
        clean, adversarial, y = answers(ctx, network, craft)
        members.update(sets(clean, adversarial, y))
        pairing[done] = (clean - adversarial).square().mean(dim=1)
        accuracies[done] = _accuracy(adversarial, y)
        loss = cross_entropy(clean, y) + cross_entropy(adversarial, y)
        found[f"clean_accuracy_at_epoch_{done:03d}"] = Quantity(_accuracy(clean, y), len(y), "%")
        found[f"adversarial_accuracy_at_epoch_{done:03d}"] = Quantity(accuracies[done], len(y), "%")
        found[f"loss_at_epoch_{done:03d}"] = Quantity(float(loss.mean()), len(y), "nats")

    same = ctx.train_again(after_epoch=after_epoch, every=every)
    epochs = max(accuracies)
    for name in ("consistent", "inconsistent"):
        n = int(members[name].sum())
        found[f"{name}_images"] = Quantity(n, len(ctx.examples), "images")
        for epoch, losses in pairing.items():
            value = float(losses[members[name]].mean()) if n else None
            found[f"{name}_alp_loss_at_epoch_{epoch:03d}"] = Quantity(value, n, "squared logits")
    converged = next(epoch for epoch, accuracy in accuracies.items() if accuracy >= MOST * accuracies[epochs])
    return found | {
        "epochs": Quantity(epochs, 1, "epochs"),
        "epochs_to_95_percent": Quantity(converged, 1, "epochs"),
        "same_weights": Quantity(float(same), 1, "1 = yes"),
    }


def _accuracy(logits: torch.Tensor, y: torch.Tensor) -> float:
    return 100 * float((logits.argmax(dim=1) == y).double().mean())
