"""The exact Wasserstein distance between two images by linear programming: slow, for checks on a sample."""

import numpy as np
import torch

from harness.api import UsageError

SMALLEST = 1e-7


def exact_distance(x: torch.Tensor, x_adv: torch.Tensor) -> float:
    """Solve the transport problem between two images (c, h, w) with HiGHS; returns pixels per unit of intensity.

    The cost is the Euclidean distance between pixels, without any window, and mass stays in its channel. As that is a
    metric, mass that both images share stays: only surpluses and deficits above 1e-7 are matched. Deficits are scaled
    to the surpluses' total, which rounding leaves a little off.
    """
    total = float(x.double().sum())
    cost = sum(_channel(*pair) for pair in zip(_numbers(x), _numbers(x_adv), strict=True))
    return cost / total if cost else 0.0


def _numbers(image: torch.Tensor) -> np.ndarray:
    return image.detach().cpu().double().numpy()


def _channel(before: np.ndarray, after: np.ndarray) -> float:
    from scipy.optimize import linprog
    from scipy.sparse import identity, kron, vstack

    sources, targets = np.argwhere(before - after > SMALLEST), np.argwhere(after - before > SMALLEST)
    if not len(sources) and not len(targets):
        return 0.0
    supply, demand = (before - after)[tuple(sources.T)], (after - before)[tuple(targets.T)]
    if not np.isclose(supply.sum(), demand.sum(), rtol=1e-3, atol=1e-5):
        raise UsageError(f"a channel loses {supply.sum():g} and gains {demand.sum():g}: mass must be conserved")
    demand = demand * (supply.sum() / demand.sum())
    costs = np.linalg.norm(sources[:, None] - targets[None], axis=2)
    leaving = kron(identity(len(sources)), np.ones((1, len(targets))))
    arriving = kron(np.ones((1, len(sources))), identity(len(targets)))
    # The last equation follows from the others; rounding would make it a contradiction.
    constraints, totals = vstack([leaving, arriving]).tocsr()[:-1], np.concatenate([supply, demand])[:-1]
    found = linprog(costs.ravel(), A_eq=constraints, b_eq=totals, method="highs")
    if not found.success:
        raise RuntimeError(f"HiGHS found no transport plan: {found.message}")
    return float(found.fun)
