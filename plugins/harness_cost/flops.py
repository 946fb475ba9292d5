"""Floating point operations of a piece of work, as torch's counter sees them."""

from dataclasses import dataclass
from math import prod

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward
TRANSPOSED = 4
"""Where, after the weights, a backward convolution says that its forward was a transposed one."""


@dataclass(frozen=True)
class Flops:
    """For one image: what was `counted`, and what it comes to where a backward pass costs two forward passes."""

    counted: float
    by_convention: float


class Untracked:
    """In place of the counter's tracker of modules, whose hooks do not survive gradients of images."""

    parents = frozenset({"Global"})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def count(work, n):
    """Run `work()`, which handles n images.

    The convention changes convolutions: a backward of theirs counts both gradients, asked for or not. Matrix products
    count as they are, since nothing tells a backward one from a forward one.
    """
    unasked = 0

    def backward(gradient, images, weights, *rest, out_shape, **named):
        nonlocal unasked
        counted = flop_registry[CONVOLUTION_BACKWARD](gradient, images, weights, *rest, out_val=out_shape, **named)
        places = images if rest[TRANSPOSED] else gradient
        unasked += 2 * 2 * prod(weights) * places[0] * prod(places[2:]) - counted
        return counted

    counter = FlopCounterMode(display=False, custom_mapping={CONVOLUTION_BACKWARD: backward})
    counter.mod_tracker = Untracked()
    with counter:
        work()
    counted = counter.get_total_flops()
    return Flops(counted=counted / n, by_convention=(counted + unasked) / n)
