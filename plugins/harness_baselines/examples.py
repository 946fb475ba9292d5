"""Adversarial images that the baselines train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from harness.networks import frozen

if TYPE_CHECKING:
    from torch import nn

    from harness.api import Images, Labels, TrainContext


def examples(model: nn.Module, x: Images, y: Labels, ctx: TrainContext, inner: str, start: str) -> Images:
    """Craft adversarial images (n, c, h, w) that increase cross-entropy (`ce`, `fgsm`) or the divergence (`kl`).

    `fgsm` takes one step; `kl` is the divergence from the clean prediction of the network in eval mode.

    `start` is where `ce` and `kl` start; steps, budget and mode are the recipe's.
    """
    if inner == "fgsm":
        return fgsm(model, x, y, ctx)
    if inner == "ce":
        return ctx.perturb(model, x, y, start=start)
    with torch.no_grad(), frozen(model, training=False):
        target = model(x).softmax(dim=1)
    return ctx.perturb(
        model, x, y, lambda point: F.kl_div(model(point).log_softmax(dim=1), target, reduction="none").sum(dim=1),
        start=start,
    )  # fmt: skip


def fgsm(model: nn.Module, x: Images, y: Labels, ctx: TrainContext) -> Images:
    """Take one step of eps along the sign of the gradient, from the image itself, of the network in eval mode."""
    return ctx.perturb(model, x, y, start="none", steps=1, step=ctx.eps, mode="eval")
