"""Measures the consistent and the inconsistent set of AALP (arXiv v1 tables 1 and 6, v2 tables 1 and 4).

Test images that are right when clean stay so under an attack (consistent) or do not (inconsistent). Images that are
wrong when clean are a third group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from harness.api import Quantity

if TYPE_CHECKING:
    from harness.api import AnalysisContext, Labels, PeerAttack

BATCH = 250
GROUPS = ("consistent", "inconsistent", "wrong_when_clean")


def confidence_sets(ctx: AnalysisContext, *, attack: str) -> dict[str, Quantity]:
    """Measure the size of each group, and means of confidences and losses over its images.

    The scale of the losses in the papers is unknown.

    The classification loss is that of the clean image plus that of the adversarial one. `alp_loss` is the mean square
    of the differences between logits, as in training, `alp_loss_sum` their sum. `alp_share` = ALP / (classification +
    ALP), which does not depend on a scale that both have.
    """
    clean, adversarial, y = _logits(ctx, ctx.attack(attack))
    right, still = clean.argmax(dim=1) == y, adversarial.argmax(dim=1) == y
    members = dict(zip(GROUPS, (right & still, right & ~still, ~right), strict=True))
    measured = _each(clean, adversarial, y)
    found = {}
    for group, chosen in members.items():
        n = int(chosen.sum())
        found[f"{group}_images"] = Quantity(n, len(y), "images")
        found[f"{group}_share"] = Quantity(100 * n / len(y), len(y), "%")
        means = {name: float(values[chosen].mean()) if n else None for name, values in measured.items()}
        for name, mean in means.items():
            found[f"{group}_{name}"] = Quantity(mean, n, _unit(name))
        classification, pairing = (means[name] or 0.0 for name in ("classification_loss", "alp_loss"))
        total = classification + pairing
        found[f"{group}_alp_share"] = Quantity(100 * pairing / total if total else None, n, "%")
    return found


def _unit(name: str) -> str:
    if name.endswith("confidence"):
        return "%"
    return "squared logits" if name.startswith("alp") else "nats"


def _logits(ctx: AnalysisContext, craft: PeerAttack) -> list[torch.Tensor]:
    """Of the clean images and of the attacked ones, each (n, k) in float64, and the labels."""
    parts = []
    for start in range(0, len(ctx.examples), BATCH):
        examples = ctx.examples[start : start + BATCH]
        x, y = ctx.test.batch(examples, ctx.device)
        x_adv = craft(ctx.model, x, y, examples.tolist())
        with torch.no_grad():
            parts.append((ctx.model(x).double(), ctx.model(x_adv).double(), y))
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def _each(clean: torch.Tensor, adversarial: torch.Tensor, y: Labels) -> dict[str, torch.Tensor]:
    """What is averaged, for every image (n,); confidences in the true class, in per cent."""
    square = (clean - adversarial).square()
    losses = [F.cross_entropy(logits, y, reduction="none") for logits in (clean, adversarial)]
    return {
        "clean_confidence": 100 * (-losses[0]).exp(),
        "adversarial_confidence": 100 * (-losses[1]).exp(),
        "clean_loss": losses[0],
        "adversarial_loss": losses[1],
        "classification_loss": losses[0] + losses[1],
        "alp_loss": square.mean(dim=1),
        "alp_loss_sum": square.sum(dim=1),
    }
