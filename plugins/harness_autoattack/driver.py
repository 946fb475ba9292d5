"""The driver of AutoAttack's stages.

Each stage attacks the images that still stand; what it returns is checked against the budget and predicted on anew.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from harness.api import NotApplicable, Result, UsageError
from harness.ops import misclassified, norm, tolerance, where_rows
from harness_autoattack.streams import Fenced

if TYPE_CHECKING:
    from harness.api import AttackContext, Images, Labels, Oracle, ThreatModel
    from harness_autoattack.stages import Settings

ORDERS = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
SMALLEST_SIDE = 5
"""Square tiles the image with fifths of its height under l2 and l1."""
SHORTEST_L1 = 3
"""Under l1 APGD divides its steps among three radii."""


def in_sequence(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, ctx: AttackContext,
    stages: Callable[[int], tuple[str, ...]], confirmations: int = 1, **lengths: Any,
) -> Result:  # fmt: skip
    """Run the stages that the number of classes asks for, each with the seed of `ctx`, as the reference driver does.

    An image counts as found where it is within the budget and most of `confirmations` predictions on the whole shard
    are wrong; other images go on to the next stage, and those that stand to the end are returned clean. The detail
    `stage` is the place (from 1) of the stage that broke an image, 0 where it stands, -1 for a clean mistake.
    """
    library = _library()
    settings = library.Settings(**lengths)
    _check(x, threat, settings, confirmations)
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        predict = Fenced(model, x.device)
        stands = predict(x).argmax(dim=1) == y
        names = stages(predict.classes)
        if "square" in names and threat.kind != "linf" and min(x.shape[2:]) < SMALLEST_SIDE:
            raise NotApplicable(f"Square needs images of {SMALLEST_SIDE} pixels and more under {threat.kind}")
        found, broken_by = x, stands.long() - 1
        for place, name in enumerate(names if threat.eps else (), start=1):
            left = stands.nonzero().squeeze(1)
            if not len(left):
                break
            stage = library.build(name, predict, threat, ctx.seed, predict.classes, settings)
            # Under l1 a projection may leave [0, 1] by one rounding. What is judged below is the clamped image.
            points = x.index_copy(0, left, stage.perturb(x[left], y[left]).detach().clamp(0.0, 1.0))
            points = where_rows(_inside(x, points, threat), points, x)
            wrong = sum(misclassified(predict(points), y).long() for _ in range(confirmations))
            breaks = stands & (2 * wrong > confirmations)
            found, stands = where_rows(breaks, points, found), stands & ~breaks
            broken_by = broken_by.masked_fill(breaks, place)
    return Result(last=found, details={"stage": broken_by})


def _library() -> ModuleType:
    try:
        from harness_autoattack import stages
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyautoattack":
            raise
        raise UsageError(
            "AutoAttack needs the package pyautoattack: pip install 'adversarial-harness[autoattack]'"
        ) from None
    return stages


def _check(x: Images, threat: ThreatModel, settings: Settings, confirmations: int) -> None:
    shortest = SHORTEST_L1 if threat.kind == "l1" else 1
    if settings.steps < shortest:
        raise UsageError(f"steps={settings.steps} must be at least {shortest} under {threat.kind}")
    numbers = {"queries": settings.queries, "eot": settings.eot, "confirmations": confirmations}
    numbers |= {f"restarts of {stage}": number for stage, number in settings.restarts.items()}
    numbers |= {f"targets of {stage}": number for stage, number in settings.targets.items()}
    for name, number in numbers.items():
        if number < 1:
            raise UsageError(f"{name}: {number} must be at least 1")


def _inside(x: Images, points: Images, threat: ThreatModel) -> torch.Tensor:
    """Within the budget, in float64 and with the tolerance of the harness for one rounding; NaN is not."""
    eps = threat.radius
    return norm(points.double() - x.double(), ORDERS[threat.kind]) <= eps + tolerance(threat.kind, eps)
