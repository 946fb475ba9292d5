"""The losses of the baselines without a divergence term.

Images handed to a loss are detached; gradients go to parameters only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from harness_baselines.examples import fgsm

if TYPE_CHECKING:
    from torch import nn

    from harness.api import Images, Labels, TrainContext


def raw(model: nn.Module, x: Images, y: Labels, ctx: TrainContext) -> torch.Tensor:
    """Compute the cross-entropy on clean images."""
    return F.cross_entropy(model(x), y)


def pgd_at(
    model: nn.Module, x: Images, y: Labels, ctx: TrainContext, *, mix: float, attack_mode: str, statistics: str = "adv"
) -> torch.Tensor:
    """Compute the cross-entropy on PGD examples, times 1 - `mix`, plus `mix` times that on clean images.

    `statistics="both"`: batch norm sees the clean images first, as in TPAP's code, which passes them for its log
    (tly18/TPAP, train_pgd_at_cifar10.py, lines 154 and 155).
    """
    x_adv = ctx.perturb(model, x, y, mode=attack_mode)
    if statistics == "both":
        watch(model, x)
    adversarial = F.cross_entropy(model(x_adv), y)
    if not mix:
        return adversarial
    return mix * F.cross_entropy(model(x), y) + (1 - mix) * adversarial


def fgsm_at(model: nn.Module, x: Images, y: Labels, ctx: TrainContext, *, statistics: str) -> torch.Tensor:
    """Compute the cross-entropy on FGSM examples: the base of TPAP.

    One step of eps against the true label, without a random start, so that catastrophic overfitting may set in.

    `statistics="both"`: batch norm also sees the clean images, as in TPAP's code, which passes them for its log
    (tly18/TPAP, train_fgsm_at_cifar10_TPAP.py, lines 218 and 219).
    """
    x_adv = fgsm(model, x, y, ctx)
    if statistics == "both":
        watch(model, x)
    return F.cross_entropy(model(x_adv), y)


def fast_at(model: nn.Module, x: Images, y: Labels, ctx: TrainContext, *, alpha: float) -> torch.Tensor:
    """Compute the cross-entropy on examples of one step of `alpha` eps from a uniform start (Wong et al. 2020).

    The network is attacked in train mode.

    Their early stop, once PGD accuracy on a training batch falls by 20 points, belongs to a training loop and is left
    out; the validation accuracy of every epoch shows what it would have caught.
    """
    x_adv = ctx.perturb(model, x, y, start="uniform", steps=1, step=alpha * ctx.eps, mode="train")
    return F.cross_entropy(model(x_adv), y)


def alp(model: nn.Module, x: Images, y: Labels, ctx: TrainContext, *, weight: float, ce: str) -> torch.Tensor:
    """Compute the cross-entropy plus `weight` times the mean squared difference of clean and adversarial logits.

    Both kinds of images share one forward pass, so batch norm sees their union; nothing is detached.
    """
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


def watch(model: nn.Module, x: Images) -> None:
    """Let the batch norm of a network see images that its loss does not."""
    with torch.no_grad():
        model(x)
