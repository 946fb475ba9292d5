"""The ANCRA loss of one batch: classification, adversarial images and negative contrast, each on all outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from harness.ops import cross_entropy
from harness_ancra.contrast import contrast, negatives
from harness_ancra.reverse_attention import labelled

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.api import Images, Labels, Logits, TrainContext
    from harness_ancra.reverse_attention import ReverseAttention


def step(
    model: ReverseAttention, x: Images, y: Labels, ctx: TrainContext, *, variant: str, beta: float, mart_beta: float,
    auxiliary: float, zeta: float, alpha: float,
) -> torch.Tensor:  # fmt: skip
    """Compute the loss; clean, adversarial and negative images pass in this order, masked by their own labels.

    The authors publish TRADES only (changzhang777/ANCRA, train_CIFAR10_ResNet.py, lines 199 to 246). `pgd` and `mart`
    put cross-entropy on adversarial images, or the terms of MART, in place of its divergence and keep the rest: they
    change one term of what is published, and clean images still train the masks that inference chooses. `pgd_plain` and
    `mart_plain` also drop the cross-entropy on clean images, which PGD training and MART do not have. Without a second
    class in the batch there is no contrast.
    """
    others = negatives(y)
    x_adv, x_neg = examples(model, x, y, others, ctx, auxiliary)
    clean, adversarial = model.answers(x, labelled(y)), model.answers(x_adv, labelled(y))

    def on_all(term: Callable[..., torch.Tensor], *answers: tuple[Logits, list[Logits]]) -> torch.Tensor:
        """The term of the final logits, plus `auxiliary` times its mean over the auxiliary ones."""
        final, blocks = zip(*answers, strict=True)
        each = [term(*logits) for logits in zip(*blocks, strict=True)]
        return term(*final) + auxiliary * sum(each) / len(each)

    loss = on_all(lambda z: F.cross_entropy(z, y), clean)
    base = variant.removesuffix("_plain")
    if base == "trades":
        robust = beta * on_all(divergence, clean, adversarial)
    elif base == "pgd":
        robust = on_all(lambda z: F.cross_entropy(z, y), adversarial)
    else:
        robust = on_all(lambda nat, adv: mart(nat, adv, y, mart_beta), clean, adversarial)
    loss = loss + robust if base == variant else robust
    if others is None:
        return loss
    negative = model.answers(x_neg, labelled(y[others]))
    return loss + zeta * on_all(lambda nat, neg: contrast(nat, neg, alpha), clean, negative)


def examples(
    model: ReverseAttention, x: Images, y: Labels, others: torch.Tensor | None, ctx: TrainContext, auxiliary: float
) -> tuple[Images, Images]:
    """Craft adversarial images of x, and of its negatives, these towards the labels of their anchors.

    Both are attacked in one batch, since rows do not meet in eval mode; the mask is that of the predicted class.
    """
    target, sign = y, x.new_ones(len(x))
    if others is not None:
        x, target, sign = torch.cat([x, x[others]]), torch.cat([y, y]), torch.cat([sign, -sign])

    def goal(point: Images) -> torch.Tensor:
        final, blocks = model.answers(point)
        aside = sum(cross_entropy(logits, target) for logits in blocks) / len(blocks)
        return sign * (cross_entropy(final, target) + auxiliary * aside)

    found = ctx.perturb(model, x, target, goal, start="normal", mode="eval")
    return found[: len(y)], found[len(y) :]


def divergence(clean: Logits, adversarial: Logits) -> torch.Tensor:
    """Compute the KL divergence of adversarial from clean predictions, the mean over the batch."""
    return F.kl_div(adversarial.log_softmax(dim=1), clean.log_softmax(dim=1), reduction="batchmean", log_target=True)


def mart(clean: Logits, adversarial: Logits, y: Labels, beta: float) -> torch.Tensor:
    """Compute MART's boosted cross-entropy plus beta times the divergence weighted by 1 - p(true class)."""
    p, q = clean.softmax(dim=1), adversarial.softmax(dim=1)
    others = q.scatter(1, y.unsqueeze(1), -1.0).max(dim=1).values
    boosted = F.cross_entropy(adversarial, y) - (1.0001 - others + 1e-12).log().mean()
    apart = (p * (clean.log_softmax(dim=1) - (q + 1e-12).log())).sum(dim=1)
    return boosted + beta * (apart * (1.0000001 - p.gather(1, y.unsqueeze(1)).squeeze(1))).mean()
