"""The threat kinds every installation has: the norms, `none` and `unbounded`.

Membership is checked in float64 on the very tensors the model sees, `not (distance <= budget)` being outside, so
that NaN never passes. Tolerances cover one float32 rounding of an exact step: 1e-7 for linf, a part in 1e5 plus 1e-6
for l2 and l1, none for l0.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from harness.registry.hookspecs import hookimpl
from harness.types import ThreatKind

if TYPE_CHECKING:
    import torch

    from harness.types import Flags, Images

_ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0, "l0": 0.0}


@hookimpl
def harness_threat_models() -> Iterable[ThreatKind]:
    """Return the norms, `none` (the image itself) and `unbounded` (reported, never ranked beside bounded ones)."""
    yield _norm_kind("linf", Fraction(1, 10), "largest change of a pixel value")
    yield _norm_kind("l2", Fraction(1, 2), "Euclidean length of the change")
    yield _norm_kind("l1", Fraction(2), "sum of absolute changes")
    yield _norm_kind("l0", Fraction(5), "number of changed values")
    yield ThreatKind(name="none", distance=_linf, verify=_unchanged, summary="the clean image, unchanged")
    yield ThreatKind(name="unbounded", distance=_linf, verify=_anything, bounded=False, summary="any image")


def _norm_kind(name: str, trial: Fraction, summary: str) -> ThreatKind:
    def distance(x: Images, x_adv: Images, evidence: Any = None) -> torch.Tensor:
        return _distance(x, x_adv, _ORDER[name])

    def verify(x: Images, x_adv: Images, eps: float, evidence: Any = None) -> Flags:
        from harness.ops import tolerance

        return distance(x, x_adv) <= eps + tolerance(name, eps)

    return ThreatKind(name=name, distance=distance, verify=verify, trial=trial, summary=summary)


def _distance(x: Images, x_adv: Images, order: float) -> torch.Tensor:
    from harness.ops import norm

    return norm(x_adv.double() - x.double(), order)


def _linf(x: Images, x_adv: Images, evidence: Any = None) -> torch.Tensor:
    return _distance(x, x_adv, float("inf"))


def _unchanged(x: Images, x_adv: Images, eps: float | None = None, evidence: Any = None) -> Flags:
    return _linf(x, x_adv) <= 0.0


def _anything(x: Images, x_adv: Images, eps: float | None = None, evidence: Any = None) -> Flags:
    return _linf(x, x_adv) <= 1.0
