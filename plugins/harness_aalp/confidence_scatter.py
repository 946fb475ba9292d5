"""Confidence of every test image, clean against attacked (AALP figure 11), as numbers that describe the cloud."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.api import Quantity
from harness_aalp.attacked import answers, sets

if TYPE_CHECKING:
    from harness.api import AnalysisContext

BINS = 10
QUANTILES = (10, 50, 90)
NEAR = 10.0
"""How many points from the diagonal still count as near it."""


def confidence_scatter(ctx: AnalysisContext, *, attack: str, points: int) -> dict[str, Quantity]:
    """Measure how confidences in the true class, in per cent, lie around the diagonal clean = attacked.

    For all images and for each set: mean distance from the diagonal, shares near and below it, correlation. For each
    tenth of clean confidence: how many images, and quantiles of their attacked confidence. `points`: of so many images,
    by their index in the split, both confidences.
    """
    clean, adversarial, y = answers(ctx, ctx.model, ctx.attack(attack))
    x, over = (100 * logits.softmax(dim=1).gather(1, y.unsqueeze(1)).squeeze(1) for logits in (clean, adversarial))
    everything = {"all": torch.ones_like(y, dtype=torch.bool)} | sets(clean, adversarial, y)
    found: dict[str, Quantity] = {}
    for name, chosen in everything.items():
        found |= {f"{name}_{what}": value for what, value in cloud(x[chosen], over[chosen]).items()}
    for low in range(0, 100, 100 // BINS):
        high = low + 100 // BINS
        inside = over[(x >= low) & ((x < high) | (high == 100))]
        found[f"clean_{low:02d}_to_{high}_images"] = Quantity(len(inside), len(x), "images")
        for quantile in QUANTILES:
            value = float(inside.quantile(quantile / 100)) if len(inside) else None
            found[f"clean_{low:02d}_to_{high}_attacked_q{quantile}"] = Quantity(value, len(inside), "%")
    for row, example in enumerate(ctx.examples[:points].tolist()):
        found[f"image_{example:05d}_clean"] = Quantity(float(x[row]), 1, "%")
        found[f"image_{example:05d}_attacked"] = Quantity(float(over[row]), 1, "%")
    return found


def cloud(clean: torch.Tensor, attacked: torch.Tensor) -> dict[str, Quantity]:
    """Describe confidences (n,) in per cent around the diagonal; no numbers where there is no image."""
    n = len(clean)
    distance = (clean - attacked).abs()

    def mean(values: torch.Tensor, scale: float = 1.0) -> float | None:
        return scale * float(values.double().mean()) if n else None

    return {
        "distance": Quantity(mean(distance), n, "points"),
        "near_diagonal": Quantity(mean(distance <= NEAR, 100), n, "%"),
        "below_diagonal": Quantity(mean(attacked < clean, 100), n, "%"),
        "correlation": Quantity(correlation(clean, attacked), n, "coefficient"),
    }


def correlation(clean: torch.Tensor, attacked: torch.Tensor) -> float | None:
    """Compute Pearson's correlation of two columns (n,); None where one of them does not vary."""
    if len(clean) < 2:
        return None
    both = torch.stack([clean, attacked])
    apart = both - both.mean(dim=1, keepdim=True)
    size = apart.norm(dim=1)
    return float(apart[0] @ apart[1] / (size[0] * size[1])) if bool((size > 0).all()) else None
