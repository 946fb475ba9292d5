"""How many penultimate features make up which share of all contribution (AALP v1 figures 2 and 7, v2 figures 1 and 7).

The papers sort "in ascending order" and ask for the minimum number of features: a minimum takes the largest first, as
the count here does; the ascending one stands beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.api import Quantity
from harness_aalp.attacked import KINDS, classifier, pairs
from harness_aalp.guided_dropout import contribution

if TYPE_CHECKING:
    from harness.api import AnalysisContext, PeerAttack
    from harness.networks import Classifier

SHARES = tuple(range(10, 100, 10))
ROUNDING = 1e-9
"""How far below a share a sum still counts as it: what adding float64 numbers loses."""


def feature_contribution(ctx: AnalysisContext, *, attack: str, of: str) -> dict[str, Quantity]:
    """Measure on clean and on attacked images how many features of the bare network give 10 % to 90 % of contribution.

    A feature's contribution is the mean of |gradient * feature| over the images (v1 equation 3). Beside the counts: the
    Gini coefficient, and the effective number of features, exp(entropy of the shares).
    """
    network = classifier(ctx.network)
    found: dict[str, Quantity] = {}
    for kind, amounts in contributions(ctx, network, ctx.attack(attack), of).items():
        found |= {f"{kind}_{name}": value for name, value in curve(amounts, len(ctx.examples)).items()}
    return found | {"features": Quantity(network.head.in_features, len(ctx.examples), "features")}


def contributions(ctx: AnalysisContext, network: Classifier, craft: PeerAttack, of: str) -> dict[str, torch.Tensor]:
    """Sum the contribution of each feature (d,), in float64, over all clean and over all attacked images."""
    totals = dict.fromkeys(KINDS, torch.zeros(network.head.in_features, dtype=torch.float64, device=ctx.device))
    weight = network.head.weight.double()
    for x, x_adv, y in pairs(ctx, network, craft):
        for kind, images in zip(KINDS, (x, x_adv), strict=True):
            with torch.no_grad():
                features = network.features(images).double()
                logits = features @ weight.T + (0 if network.head.bias is None else network.head.bias.double())
            each = contribution(features, logits, y, weight, of=of)
            # That of the loss is of the mean over the batch; images count alike in batches of any size.
            totals[kind] = totals[kind] + each.sum(dim=0) * (len(y) if of == "loss" else 1)
    return totals


def curve(amounts: torch.Tensor, n: int) -> dict[str, Quantity]:
    """Describe how contributions (d,), over n images, spread over the features; no numbers where all are 0."""
    total = float(amounts.sum())
    shares = amounts / total if total > 0 else None
    found = {}
    for share in SHARES:
        counts = (None, None) if shares is None else (needed(shares, share), needed(shares, share, ascending=True))
        found[f"features_for_{share}"] = Quantity(counts[0], n, "features")
        found[f"features_for_{share}_ascending"] = Quantity(counts[1], n, "features")
    for share in (50, 90):
        count = found[f"features_for_{share}"].value
        part = None if count is None else 100 * count / len(amounts)
        found[f"share_of_features_for_{share}"] = Quantity(part, n, "%")
    found["gini"] = Quantity(None if shares is None else gini(shares), n, "share")
    found["effective_features"] = Quantity(None if shares is None else effective(shares), n, "features")
    return found


def needed(shares: torch.Tensor, percent: float, *, ascending: bool = False) -> int:
    """Count the fewest features, largest or smallest first, whose shares (d,) sum to at least so many per cent."""
    sums = shares.sort(descending=not ascending).values.cumsum(dim=0)
    return min(len(shares), int((sums < percent / 100 - ROUNDING).sum()) + 1)


def gini(shares: torch.Tensor) -> float:
    """Compute the Gini coefficient of shares (d,): 0 where all are equal, 1 - 1/d where one has all."""
    ordered = shares.sort().values
    ranks = torch.arange(1, len(shares) + 1, dtype=ordered.dtype, device=ordered.device)
    return float(2 * (ranks * ordered).sum() / (len(shares) * ordered.sum()) - (len(shares) + 1) / len(shares))


def effective(shares: torch.Tensor) -> float:
    """Compute exp(entropy) of shares (d,): d where all are equal, 1 where one has all."""
    return float(torch.special.entr(shares).sum().exp())
