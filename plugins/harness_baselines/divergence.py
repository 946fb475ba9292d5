"""The loss of one batch for the baselines that pull clean and adversarial predictions together: TRADES and MART.

Nothing is detached but the images.
"""

import torch
import torch.nn.functional as F

from harness_baselines.examples import examples


def trades(model, x, y, ctx, *, beta, inner, start):
    """Cross-entropy on clean images plus beta times the divergence between clean and adversarial predictions.

    The clean images pass a second time for the divergence, as in the reference code.
    """
    x_adv = examples(model, x, y, ctx, inner, start)
    classification = F.cross_entropy(model(x), y)
    adversarial, clean = model(x_adv).log_softmax(dim=1), model(x).log_softmax(dim=1)
    return classification + beta * F.kl_div(adversarial, clean, reduction="batchmean", log_target=True)


def mart(model, x, y, ctx, *, beta, variant, inner, start):
    """Boosted cross-entropy on adversarial images plus beta times a divergence weighted by 1 - p(true class).

    The small constants are those of the reference code. `variant="tpap"` keeps the divergence of some rows only.
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
    return boosted + beta * (divergence * weight).mean()


def tpap_mask(predicted: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Whose divergence counts (n,) in TPAP's code: "1e-7 + predicted != y", meant as "1e-7 + (predicted != y)".

    In float32, 1e-7 changes 0 and 1 and is lost in 2 and above. So it is 1 for what is misclassified, 1 for what is
    rightly taken for class 0 or 1, and 0 for what is rightly taken for any other class.
    """
    return (predicted.float() + 1e-7 != y.float()).float()
