"""Distances between features, by which ANCRA judges a representation: alignment and exclusion.

Alignment: a natural example and its own adversarial one are close. Exclusion: examples of different classes are apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from harness.api import NotApplicable, Quantity
from harness.networks import Classifier
from harness.ops import ascend, cross_entropy, project_linf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.api import AnalysisContext, Images, Labels

BATCH = 250
BINS = 20
"""Of the histograms of cosine distances, which lie between 0 and 2."""
KINDS = {"cosine": "1 - cosine", "l2": "l2"}


def feature_distances(ctx: AnalysisContext, *, attack: str, steps: int, step: float) -> dict[str, Quantity]:
    """Measure distances between penultimate features of the bare network; `n` counts pairs.

    `alignment`: each natural example and itself under `attack`. `exclusion`: natural examples of different classes, all
    pairs. `exclusion_attacked`: natural examples, and examples of other classes under targeted PGD towards the class of
    those, in `steps` of `step` times the dataset's linf budget. `within`: different natural examples of one class. Of
    each the least, the most, the mean, the variance and, for cosines, the shares of 20 equal bins. `cosine_ratio` and
    `l2_ratio`: mean alignment over mean exclusion.

    Raises:
        NotApplicable: where the network is no `Classifier`, or there is one class.
    """
    network = ctx.network
    if not isinstance(network, Classifier):
        raise NotApplicable(f"it looks at penultimate features, which {type(network).__name__} does not tell")
    if network.head.out_features < 2:
        raise NotApplicable("there is no other class to keep away from")
    natural, own, aimed, y, target = _features(ctx, network, attack, steps, step)
    found: dict[str, Quantity] = {}
    for kind in KINDS:
        spreads = {name: Spread(kind) for name in ("alignment", "exclusion", "exclusion_attacked", "within")}
        spreads["alignment"].add(_paired(kind, natural, own))
        for row, (features, label) in enumerate(zip(natural, y, strict=True), 1):
            rest, same = _paired(kind, features.expand_as(natural[row:]), natural[row:]), y[row:] == label
            spreads["exclusion"].add(rest[~same])
            spreads["within"].add(rest[same])
            attackers = aimed[target == label]
            spreads["exclusion_attacked"].add(_paired(kind, features.expand_as(attackers), attackers))
        for name, spread in spreads.items():
            found |= {f"{name}_{kind}_{what}": value for what, value in spread.quantities().items()}
        near, apart = spreads["alignment"], spreads["exclusion"]
        ratio = near.mean / apart.mean if near.n and apart.n and apart.mean > 0 else None
        found[f"{kind}_ratio"] = Quantity(ratio, near.n if ratio is not None else 0, "ratio")
    return found


def targets(y: Labels, examples: list[int], classes: int) -> Labels:
    """Choose another class (n,) for each example: over their indices in the split, all other classes in turn."""
    steps = torch.tensor(examples, device=y.device) % (classes - 1) + 1
    return (y + steps) % classes


def towards(network: Classifier, x: Images, target: Labels, eps: float, step: float, steps: int) -> Images:
    """Attack images towards classes: targeted PGD from the image itself, last iterate."""
    return ascend(lambda point: -cross_entropy(network(point), target), x, step, project_linf(x, eps), steps)


class Spread:
    """Moments and histogram of distances, gathered piece by piece."""

    def __init__(self, kind: str) -> None:
        self.kind, self.n, self.mean, self.squares = kind, 0, 0.0, 0.0
        self.least, self.most = float("inf"), float("-inf")
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def add(self, distances: torch.Tensor) -> None:
        """Take more distances (m,) in, float64."""
        m = len(distances)
        if not m:
            return
        mean = float(distances.mean())
        # The parallel update of Chan et al. 1979: no difference of large sums.
        self.squares += float((distances - mean).square().sum()) + (mean - self.mean) ** 2 * self.n * m / (self.n + m)
        self.mean += (mean - self.mean) * m / (self.n + m)
        self.n += m
        self.least, self.most = min(self.least, float(distances.min())), max(self.most, float(distances.max()))
        if self.kind == "cosine":
            self.counts += distances.cpu().clamp(0, 2).histc(BINS, 0, 2)

    def quantities(self) -> dict[str, Quantity]:
        """Describe them; no numbers where there is no distance."""
        unit, n = KINDS[self.kind], self.n
        values = {"mean": self.mean, "min": self.least, "max": self.most, "variance": self.squares / max(n, 1)}
        found = {name: Quantity(value if n else None, n, unit) for name, value in values.items()}
        found["variance"] = Quantity(found["variance"].value, n, f"({unit})^2")
        if self.kind == "cosine":
            for place, count in enumerate((self.counts / max(n, 1)).tolist()):
                low = f"{2 * place / BINS:.1f}"
                found[f"from_{low}"] = Quantity(100 * count if n else None, n, "%")
        return found


def _paired(kind: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Distances (n,) of rows; a row of zeros has cosine 0 with everything."""
    return 1 - F.cosine_similarity(a, b, dim=1) if kind == "cosine" else (a - b).norm(dim=1)


def _features(
    ctx: AnalysisContext, network: Classifier, attack: str, steps: int, step: float
) -> Iterator[torch.Tensor]:
    """Natural, attacked and targeted features (n, d) in float64, labels and targets (n,)."""
    craft, eps = ctx.attack(attack), float(ctx.budget("linf"))
    parts = []
    for start in range(0, len(ctx.examples), BATCH):
        examples = ctx.examples[start : start + BATCH].tolist()
        x, y = ctx.test.batch(ctx.examples[start : start + BATCH], ctx.device)
        target = targets(y, examples, network.head.out_features)
        images = (x, craft(network, x, y, examples), towards(network, x, target, eps, step * eps, steps))
        with torch.no_grad():
            parts.append((*(network.features(one).double() for one in images), y, target))
    return (torch.cat(part) for part in zip(*parts, strict=True))
