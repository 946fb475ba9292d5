"""What is measured of a network before any attack: signs that gradients would mislead one.

The checks of AutoAttack (Croce and Hein 2020, arXiv:2003.01690) and their like, without state: numbers only, from a
fixed set of images. What number is a flag is for `harness.results.audit` to say.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.variable import Variable

from harness.evaluation.absent import WithoutAbsent
from harness.evaluation.alone import OneByOne
from harness.evaluation.canaries import noise_share
from harness.evaluation.isolation import isolated
from harness.evaluation.judge import Judge
from harness.ops import cross_entropy, margin

if TYPE_CHECKING:
    from harness.types import Flags, Images, Labels, Logits

PROBABILITY_TOLERANCE = 1e-4
STEPS, STEP = 20, 0.1
"""Number and size of the sign steps at eps 1: enough to cross [0, 1] twice."""
DIRECTIONS = 4
WRAPPERS = (OneByOne, WithoutAbsent)
LABELS = ("y", "label", "labels", "target", "targets")
"""What a forward calls the labels that it takes, if it takes any."""


def probe(judge: Judge, x: Images, y: Labels) -> dict[str, float]:
    """Measure a deployed network on some images (n, c, h, w).

    Returns:
        `logit_noise`: the largest difference between two passes as a share of the scale of the logits; of a random
        network over all the passes of its judge. `probabilities`: the share of images answered with probabilities or
        their logarithms, 0 where noise is not. `zero_gradient_ce`, `zero_gradient_margin`: the share of images whose
        input gradient is exactly zero, not finite or missing, under either loss.
        `zero_gradient_pixels`: the share of all pixels whose gradient of the cross-entropy is exactly zero.
        `gradient_calls`: how often the network itself asks for gradients while it predicts. `labels_taken`: how many
        arguments for labels it has. `standing_at_eps_1`: the share of images that are right and stay right under sign
        steps down the margin that nothing but [0, 1] binds. `chance`: one by the number of classes.

    Raises:
        InvalidModel: where the network answers nonsense.
    """
    with isolated("probes"):
        with _counted_gradients() as counted:
            first, second = judge.logits(x), judge.logits(x)
        noise = noise_share(first, second)
        by_ce, by_margin = _gradient(judge, x, y, cross_entropy), _gradient(judge, x, y, margin)
        return {
            "logit_noise": max(noise, judge.logit_noise) if judge.stochastic else noise,
            "probabilities": _share(_probabilities(first) & _probabilities(judge.logits(judge.canaries)).all()),
            "zero_gradient_ce": _share(_is_blind(by_ce)),
            "zero_gradient_margin": _share(_is_blind(by_margin)),
            "zero_gradient_pixels": _share(by_ce == 0),
            "gradient_calls": counted.runs / 2,
            "labels_taken": float(_labels_taken(judge)),
            "standing_at_eps_1": _share(_standing(judge, x, y)),
            "chance": 1 / judge.classes,
        }


def slopes(judge: Judge) -> torch.Tensor:
    """Project the gradient of each canary's margin over its predicted class on fixed directions, float64 (n, 4).

    After a fixed reseed; zero where there is no gradient, or no finite one.
    """
    x = judge.canaries
    with isolated("canaries"):
        found = _gradient(judge, x, judge.answers.argmax(dim=1), margin)
    axes = torch.randn(DIRECTIONS, x[0].numel(), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return found.nan_to_num(0.0, 0.0, 0.0).flatten(1).double().cpu() @ axes.t()


def _probabilities(logits: Logits) -> Flags:
    """Tell which answers (n,) are probabilities that sum to 1, or logarithms of such.

    Distances to classes do too for an image that lies on a class, and others by accident: no network means it that does
    not answer noise with probabilities.
    """
    plain = (logits >= 0).all(dim=1) & ((logits.sum(dim=1) - 1).abs() <= PROBABILITY_TOLERANCE)
    return plain | (logits.logsumexp(dim=1).abs() <= PROBABILITY_TOLERANCE)


def _gradient(judge: Judge, x: Images, y: Labels, loss: Callable[[Logits, Labels], torch.Tensor]) -> Images:
    """Differentiate the loss by each pixel, (n, c, h, w); zero where nothing is differentiable."""
    point = x.clone().requires_grad_(True)
    with torch.enable_grad():
        logits = judge.model(point.clone())
        if not logits.requires_grad:
            return torch.zeros_like(x)
        # A network that answers from parameters only leaves nothing to differentiate: zeros, not an error.
        found = torch.autograd.grad(loss(logits, y).sum(), point, allow_unused=True, materialize_grads=True)
    return found[0]


def _is_blind(gradient: Images) -> Flags:
    """Tell which images (n,) have no gradient to follow: zero everywhere, or not finite somewhere."""
    values = gradient.flatten(1)
    return (values == 0).all(dim=1) | ~torch.isfinite(values).all(dim=1)


def _standing(judge: Judge, x: Images, y: Labels) -> Flags:
    """Tell which images (n,) are right and stay right; those that fell are not moved again: most fall at once."""
    standing, point = ~judge.misclassified(x, y, len(x)), x
    for _ in range(STEPS):
        left = standing.nonzero().squeeze(1)
        if not len(left):
            break
        downhill = _gradient(judge, point[left], y[left], margin).nan_to_num(0.0).sign()
        moved = (point[left] - STEP * downhill).clamp(0.0, 1.0)
        point = point.index_copy(0, left, moved)
        standing = standing.index_copy(0, left, ~judge.misclassified(moved, y[left], len(left)))
    return standing


def _labels_taken(judge: Judge) -> int:
    inner = judge.model
    while isinstance(inner, WRAPPERS):
        inner = inner.network
    try:
        return sum(name in LABELS for name in inspect.signature(inner.forward).parameters)
    except ValueError:  # a scripted forward has no signature
        return 0


def _share(flags: Flags) -> float:
    return float(flags.float().mean())


class _CountingEngine:
    """Torch's engine for gradients, which notes each run."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.runs = engine, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def run_backward(self, *args: Any, **kwargs: Any) -> Any:
        self.runs += 1
        return self.engine.run_backward(*args, **kwargs)


@contextmanager
def _counted_gradients() -> Iterator[_CountingEngine]:
    """Count the gradients that are computed inside the block, and put torch back as it was.

    At the engine, which every way to ask for a gradient ends in: a network may have imported `grad` before.
    """
    holder: Any = Variable
    counting = _CountingEngine(holder._execution_engine)
    holder._execution_engine = counting
    try:
        yield counting
    finally:
        holder._execution_engine = counting.engine
