"""Counts floating point operations with torch's counter."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward
TRANSPOSED = 4
"""Where, after the weights, a backward convolution says that its forward was a transposed one."""


@dataclass(frozen=True)
class Flops:
    """FLOPs of one image: those `counted`, and the sum where a backward pass costs two forward passes."""

    counted: float
    by_convention: float


class Untracked:
    """A replacement for the counter's module tracker, whose hooks do not survive gradients of images."""

    parents = frozenset({"Global"})

    def __enter__(self) -> Untracked:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def count(work: Callable[[], object], n: int) -> Flops:
    """Count the FLOPs of `work()`, which handles n images.

    The convention changes convolutions: a backward of theirs counts both gradients, asked for or not. Matrix products
    count as they are, since nothing tells a backward one from a forward one.
    """
    unasked = 0

    def backward(
        gradient: Sequence[int], images: Sequence[int], weights: Sequence[int], *rest: Any, out_shape: Any, **named: Any
    ) -> int:
        nonlocal unasked
        counted: int = flop_registry[CONVOLUTION_BACKWARD](gradient, images, weights, *rest, out_val=out_shape, **named)
        places = images if rest[TRANSPOSED] else gradient
        unasked += 2 * 2 * prod(weights) * places[0] * prod(places[2:]) - counted
        return counted

    counter = FlopCounterMode(display=False, custom_mapping={CONVOLUTION_BACKWARD: backward})
    counter.mod_tracker = Untracked()  # type: ignore[assignment]  # all that the counter asks of it
    with counter:
        work()
    counted = counter.get_total_flops()
    return Flops(counted=counted / n, by_convention=(counted + unasked) / n)
