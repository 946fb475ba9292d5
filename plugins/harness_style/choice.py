"""Chooses the image of another class that each example is pulled towards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.api import NotApplicable

if TYPE_CHECKING:
    from harness.api import AttackContext


def style_images(ctx: AttackContext, y: torch.Tensor, classes: int) -> torch.Tensor:
    """Draw for each example a training image of another class (n, c, h, w), all equally likely.

    A function of the seed, the example's index and its label: the rest of the batch and the attack have no part in it.
    """
    counts = torch.tensor([len(ctx.train_images(label)) for label in range(classes)], device=y.device)
    others = counts.expand(len(y), -1).scatter(1, y.unsqueeze(1), 0)
    ends = others.cumsum(dim=1)
    if not ends[:, -1].all():
        raise NotApplicable("the training images are all of one class")
    drawn = ctx.noise("style")
    share = (drawn.flatten(1)[:, :1].double() + 1) / 2
    place = (share * ends[:, -1:]).long()
    labels = torch.searchsorted(ends, place, right=True)
    places = (place - ends.gather(1, labels) + others.gather(1, labels)).squeeze(1)
    chosen = torch.empty_like(drawn)
    for label in labels.unique().tolist():
        asked = labels.squeeze(1) == label
        chosen[asked] = ctx.train_images(label)[places[asked]]
    return chosen
