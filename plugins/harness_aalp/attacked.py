"""Test images clean and attacked, and what a network says of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.api import NotApplicable
from harness.networks import Classifier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from harness.api import AnalysisContext, Flags, Images, Labels, Logits, PeerAttack

BATCH = 250
KINDS = ("clean", "adversarial")


def pairs(ctx: AnalysisContext, network: nn.Module, craft: PeerAttack) -> Iterator[tuple[Images, Images, Labels]]:
    """Yield clean images, the same attacked on `network`, and their labels, a batch at a time."""
    for start in range(0, len(ctx.examples), BATCH):
        examples = ctx.examples[start : start + BATCH]
        x, y = ctx.test.batch(examples, ctx.device)
        yield x, craft(network, x, y, examples.tolist()), y


def answers(ctx: AnalysisContext, network: nn.Module, craft: PeerAttack) -> tuple[Logits, Logits, Labels]:
    """Compute the logits (n, k) of clean and of attacked images in float64, and their labels (n,)."""
    parts = []
    for x, x_adv, y in pairs(ctx, network, craft):
        with torch.no_grad():
            parts.append((network(x).double(), network(x_adv).double(), y))
    clean, adversarial, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return clean, adversarial, labels


def sets(clean: Logits, adversarial: Logits, y: Labels) -> dict[str, Flags]:
    """Tell which images (n,) are in AALP's consistent and inconsistent set, and which are in neither."""
    right, still = clean.argmax(dim=1) == y, adversarial.argmax(dim=1) == y
    return {"consistent": right & still, "inconsistent": right & ~still, "wrong_when_clean": ~right}


def classifier(network: nn.Module) -> Classifier:
    """Take a network for one whose features, head and stages are known.

    Raises:
        NotApplicable: where it is none.
    """
    if not isinstance(network, Classifier):
        raise NotApplicable(
            "it looks at penultimate features and stages, those of a harness.networks.Classifier, which "
            f"{type(network).__name__} is not"
        )
    return network
