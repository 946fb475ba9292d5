"""The adversarial images that a baseline trains on."""

import torch
import torch.nn.functional as F

from harness.networks import frozen


def examples(model, x, y, ctx, inner, start):
    """Climb cross-entropy (`ce`), in one step (`fgsm`), or the divergence from the clean prediction (`kl`).

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


def fgsm(model, x, y, ctx):
    """One step of eps along the sign of the gradient, from the image itself, of the network in eval mode."""
    return ctx.perturb(model, x, y, start="none", steps=1, step=ctx.eps, mode="eval")
