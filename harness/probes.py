"""What is measured of a network before any attack: signs that gradients would mislead one.

The checks of AutoAttack (Croce and Hein 2020, arXiv:2003.01690) and their like, without state: numbers only, from a
fixed set of images. What number is a flag is for `harness.audit` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from harness.context import isolated
from harness.judge import Judge
from harness.ops import cross_entropy, margin

if TYPE_CHECKING:
    from harness.types import Flags, Images, Labels, Logits

PROBABILITY_TOLERANCE = 1e-4


def probe(judge: Judge, x: Images, y: Labels) -> dict[str, float]:
    """Measure a deployed network on some images.

    Returns:
        `logit_noise`: the largest difference between two passes as a share of the largest logit. `probabilities`: the
        share of images answered with probabilities or their logarithms. `zero_gradient_ce`, `zero_gradient_margin`:
        the share of images whose input gradient is exactly zero, not finite or missing, under either loss.
        `gradient_calls`: how often the network itself asks for gradients while it predicts.
    """
    with isolated("probes"):
        with _counted_gradients() as calls:
            first, second = judge.logits(x), judge.logits(x)
        noise = float((first - second).abs().max() / first.abs().max().clamp_min(1e-12))
        return {
            "logit_noise": noise,
            "probabilities": _share(_probabilities(first)),
            "zero_gradient_ce": _share(_without_gradient(judge, x, y, cross_entropy)),
            "zero_gradient_margin": _share(_without_gradient(judge, x, y, margin)),
            "gradient_calls": float(len(calls) / 2),
        }


def _probabilities(logits: Logits) -> Flags:
    plain = (logits >= 0).all(dim=1) & ((logits.sum(dim=1) - 1).abs() <= PROBABILITY_TOLERANCE)
    return plain | ((logits.exp().sum(dim=1) - 1).abs() <= PROBABILITY_TOLERANCE)


def _without_gradient(judge: Judge, x: Images, y: Labels, loss: Callable[[Logits, Labels], torch.Tensor]) -> Flags:
    point = x.clone().requires_grad_(True)
    with torch.enable_grad():
        logits = judge.model(point.clone())
        if not logits.requires_grad:
            return torch.ones(len(x), dtype=torch.bool)
        # A network that answers from parameters only leaves nothing to differentiate: zeros, not an error.
        found = torch.autograd.grad(loss(logits, y).sum(), point, allow_unused=True, materialize_grads=True)
    rows = found[0].flatten(1)
    return (rows == 0).all(dim=1) | ~torch.isfinite(rows).all(dim=1)


def _share(flags: Flags) -> float:
    return float(flags.float().mean())


@contextmanager
def _counted_gradients() -> Iterator[list[str]]:
    """Collect a word for every call for gradients inside the block, and put torch back as it was.

    A call that torch hands to itself, as it does under a default device, counts once.
    """
    calls: list[str] = []
    inside = False
    grad, backward = torch.autograd.grad, torch.autograd.backward

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:
                return original(*args, **kwargs)
            calls.append(name)
            inside = True
            try:
                return original(*args, **kwargs)
            finally:
                inside = False

        return call

    torch.autograd.grad, torch.autograd.backward = watched("grad", grad), watched("backward", backward)
    try:
        yield calls
    finally:
        torch.autograd.grad, torch.autograd.backward = grad, backward
