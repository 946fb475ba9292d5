"""What a run climbs: away from the true class, or towards another one."""

import torch

from harness.ops import cross_entropy, margin
from harness_gradient.first_adversarial import Function


def aims(logits: torch.Tensor, y: torch.Tensor, target: str, most: int, ctx) -> torch.Tensor:
    """The classes (n, t) to aim at in turn, never the true one.

    `each`: the likeliest other classes on the clean image, likeliest first, at most so many; `least_likely`: the least
    likely other class; `random`: one drawn uniformly from the others.
    """
    if target == "random":
        others = logits.shape[1] - 1
        share = (ctx.noise("target").flatten(1)[:, :1] + 1) / 2
        drawn = (share * others).long().clamp_max(others - 1)
        return drawn + (drawn >= y.unsqueeze(1)).long()
    true = y.unsqueeze(1)
    if target == "least_likely":
        return logits.scatter(1, true, float("inf")).argmin(dim=1, keepdim=True)
    order = logits.scatter(1, true, float("-inf")).argsort(dim=1, descending=True, stable=True)
    others = order[order != true].view(len(y), -1)  # the true class is last, unless another logit is -inf too
    return others[:, :most]


def objective(loss: str, logits: str, y: torch.Tensor, aim: torch.Tensor | None) -> Function:
    """Logits -> what each example ascends.

    `loss`: `ce`, cross-entropy of the true class, or minus that of the aim; `margin`, how far the best other class, or
    the aim, is above the true class. `logits`: `rescaled` divides each example's by their standard deviation, which
    sends no gradient back, so that cross-entropy cannot saturate.
    """

    def value(answer: torch.Tensor) -> torch.Tensor:
        if logits == "rescaled":
            answer = answer / answer.detach().std(dim=1, keepdim=True).clamp_min(1e-12)
        if aim is None:
            return cross_entropy(answer, y) if loss == "ce" else -margin(answer, y)
        if loss == "ce":
            return -cross_entropy(answer, aim)
        return torch.diff(answer.gather(1, torch.stack([y, aim], dim=1)), dim=1).squeeze(1)

    return value
