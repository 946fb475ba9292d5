"""Intervals and paired tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Compute the Wilson score interval of a proportion (Wilson 1927), bounds in [0, 1]; all of it for n = 0."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The bounds at the ends are exact; rounding would leave them a hair off.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == n else (centre + spread) / scale
    return low, high


def mcnemar(only_first: int, only_second: int) -> float:
    """Compute the exact two-sided p-value of McNemar's test from the images on which two rows differ.

    1 where they differ on none.
    """
    from scipy.stats import binomtest

    differing = only_first + only_second
    return float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values by Holm's step-down method (Holm 1979), in the order given."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def paired_interval(only_first: int, only_second: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Compute an interval for the difference of two shares on the same n images, bounds in [-1, 1].

    The adjusted Wald interval of Agresti and Min 2005: half an image is added to each of the four cells.
    """
    first, second, size = only_first + 0.5, only_second + 0.5, n + 2
    difference = (first - second) / size
    spread = z * math.sqrt(first + second - (first - second) ** 2 / size) / size
    return max(-1.0, difference - spread), min(1.0, difference + spread)
