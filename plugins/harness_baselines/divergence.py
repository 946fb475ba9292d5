"""The losses of TRADES and MART, which pull clean and adversarial predictions together.

Only images are detached; gradients flow through both predictions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from harness_baselines.examples import examples

if TYPE_CHECKING:
    from torch import nn

    from harness.api import Images, Labels, TrainContext


def trades(
    model: nn.Module, x: Images, y: Labels, ctx: TrainContext, *, beta: float, inner: str, start: str,
    clean_passes: int = 2,
) -> torch.Tensor:  # fmt: skip
    """Compute the cross-entropy on clean images plus beta times the divergence of adversarial predictions.

    The clean images pass a second time for the divergence, as in the reference code (yaodongyu/TRADES, trades.py).
    With one pass batch norm sees clean and adversarial images once each, as in TPAP's code (tly18/TPAP,
    train_fgsm_at_cifar10_TPAP.py, lines 218 to 225).
    """
    x_adv = examples(model, x, y, ctx, inner, start)
    logits = model(x)
    classification = F.cross_entropy(logits, y)
    adversarial = model(x_adv).log_softmax(dim=1)
    clean = (model(x) if clean_passes == 2 else logits).log_softmax(dim=1)
    return classification + beta * F.kl_div(adversarial, clean, reduction="batchmean", log_target=True)


def mart(
    model: nn.Module, x: Images, y: Labels, ctx: TrainContext, *, beta: float, variant: str, inner: str, start: str
) -> torch.Tensor:
    """Compute the boosted cross-entropy on adversarial images plus beta times the weighted divergence.

    The weight of an image is 1 - p(true class). The small constants are those of the reference code. `variant="tpap"`
    keeps the divergence of some rows only (see `tpap_mask`).
    """
    x_adv = examples(model, x, y, ctx, inner, start)
    clean, adversarial = model(x), model(x_adv)
    p, q = clean.softmax(dim=1), adversarial.softmax(dim=1)
    others = q.scatter(1, y.unsqueeze(1), -1.0).max(dim=1).values
    boosted = F.cross_entropy(adversarial, y) - (1.0001 - others + 1e-12).log().mean()
    # p log p from log_softmax: its gradient stays finite where p itself is 0 in float32.
    divergence = (p * (clean.log_softmax(dim=1) - (q + 1e-12).log())).sum(dim=1)
    weight = 1.0000001 - p.gather(1, y.unsqueeze(1)).squeeze(1)
    if variant == "tpap":
        weight = weight * tpap_mask(clean.argmax(dim=1), y)
    total: torch.Tensor = boosted + beta * (divergence * weight).mean()
    return total


def tpap_mask(predicted: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Compute whose divergence counts (n,) in TPAP's code.

    The code writes "1e-7 + predicted != y" and means "1e-7 + (predicted != y)".

    In float32, 1e-7 changes 0 and 1 and is lost in 2 and above. So it is 1 for what is misclassified, 1 for what is
    rightly taken for class 0 or 1, and 0 for what is rightly taken for any other class.
    """
    return (predicted.float() + 1e-7 != y.float()).float()
