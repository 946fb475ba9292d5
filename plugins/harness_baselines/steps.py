"""The loss of one batch for each baseline. Images handed to a loss are detached; gradients go to parameters only."""

import torch
import torch.nn.functional as F

from harness.networks import frozen


def raw(model, x, y, ctx):
    return F.cross_entropy(model(x), y)


def pgd_at(model, x, y, ctx, *, mix, attack_mode):
    x_adv = ctx.perturb(model, x, y, mode=attack_mode)
    adversarial = F.cross_entropy(model(x_adv), y)
    if not mix:
        return adversarial
    return mix * F.cross_entropy(model(x), y) + (1 - mix) * adversarial


def alp(model, x, y, ctx, *, weight, ce):
    """Clean and adversarial images share one forward pass, so batch norm sees their union; nothing is detached."""
    both = torch.cat([x, ctx.perturb(model, x, y)])
    logits = model(both)
    clean, adversarial = logits.chunk(2)
    if ce == "both":
        classification = F.cross_entropy(logits, y.repeat(2))
    elif ce == "clean":
        classification = F.cross_entropy(clean, y)
    else:
        classification = F.cross_entropy(adversarial, y)
    return classification + weight * F.mse_loss(clean, adversarial)


def trades(model, x, y, ctx, *, beta, inner, start):
    """Cross-entropy on clean images plus beta times the divergence between clean and adversarial predictions.

    Nothing is detached in the divergence, and the clean images pass a second time for it, as in the reference code.
    """
    x_adv = _inner(model, x, y, ctx, inner, start)
    classification = F.cross_entropy(model(x), y)
    adversarial, clean = model(x_adv).log_softmax(dim=1), model(x).log_softmax(dim=1)
    return classification + beta * F.kl_div(adversarial, clean, reduction="batchmean", log_target=True)


def _inner(model, x, y, ctx, inner, start):
    """The examples of a training: of cross-entropy (`ce`), of its single step (`fgsm`) or of the divergence (`kl`)."""
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
    """One step of eps along the sign of the gradient, from the image itself."""
    return ctx.perturb(model, x, y, start="none", steps=1, step=ctx.eps)
