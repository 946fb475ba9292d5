"""The evidence of a Wasserstein attack: where every unit of intensity goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Plan:
    """Transport plans of a batch.

    `mass` (n, c, k * k, h, w): the intensity that leaves pixel (i, j) for pixel (i + di, j + dj) of the same channel.
    The offsets (di, dj) are in row-major order, each from `low` to `high`, k = high - low + 1. What lies in (0, 0)
    stays where it is.
    """

    mass: torch.Tensor
    low: int
    high: int
