"""The loss of one batch for each baseline."""

import torch
import torch.nn.functional as F


def raw(model, x, y, ctx):
    return F.cross_entropy(model(x), y)


def pgd_at(model, x, y, ctx, *, mix):
    x_adv = ctx.perturb(model, x, y)
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
