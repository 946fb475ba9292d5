"""The loss of one batch for each baseline without a divergence term.

Images handed to a loss are detached; gradients go to parameters only.
"""

import torch
import torch.nn.functional as F

from harness_baselines.examples import fgsm


def raw(model, x, y, ctx):
    return F.cross_entropy(model(x), y)


def pgd_at(model, x, y, ctx, *, mix, attack_mode):
    x_adv = ctx.perturb(model, x, y, mode=attack_mode)
    adversarial = F.cross_entropy(model(x_adv), y)
    if not mix:
        return adversarial
    return mix * F.cross_entropy(model(x), y) + (1 - mix) * adversarial


def fgsm_at(model, x, y, ctx, *, statistics):
    """The base of TPAP: step eps, the true label, no random start, so that catastrophic overfitting may set in.

    `statistics="both"`: batch norm also sees the clean images, as in TPAP's code, which passes them for its log.
    """
    x_adv = fgsm(model, x, y, ctx)
    if statistics == "both":
        with torch.no_grad():
            model(x)
    return F.cross_entropy(model(x_adv), y)


def fast_at(model, x, y, ctx, *, alpha):
    """Wong et al. 2020: one step of `alpha` eps from a uniform start, the network attacked in train mode.

    Their early stop, once PGD accuracy on a training batch falls by 20 points, belongs to a training loop and is left
    out; the validation accuracy of every epoch shows what it would have caught.
    """
    x_adv = ctx.perturb(model, x, y, start="uniform", steps=1, step=alpha * ctx.eps, mode="train")
    return F.cross_entropy(model(x_adv), y)


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
