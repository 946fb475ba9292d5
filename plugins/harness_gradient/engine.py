"""The step loop of FGSM and PGD: sign ascent in the linf ball, with a snapshot for every wanted number of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch

from harness.api import Result, UsageError
from harness.ops import ascend, cross_entropy, margin, misclassified, project_linf, where_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.api import AttackContext, Images, Labels, Oracle, ThreatModel

Objective = Callable[[torch.Tensor], torch.Tensor]


def clean(model: Oracle, x: Images, y: Labels, threat: ThreatModel) -> Images:
    """Return the images unchanged."""
    return x


def fgsm(model: Oracle, x: Images, y: Labels, threat: ThreatModel) -> Images:
    """Take one step of eps along the sign of the gradient (Goodfellow et al. 2015, arXiv:1412.6572)."""
    eps = threat.radius
    return ascend(lambda point: cross_entropy(model(point), y), x, eps, project_linf(x, eps), 1)


def pgd(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, step: float, loss: str,
    kappa: float, start: str, restarts: int,
) -> Result:  # fmt: skip
    """Take `steps` sign steps of size `step` from each of `restarts` starts; snapshot the wanted numbers of steps.

    `last` is the final iterate of the first restart whose final iterate is misclassified, else of the first restart.
    `any` is the first misclassified iterate over all restarts. Restarts run on the whole batch, so that a snapshot
    equals a separate run bit for bit. With one restart the final iterate is not evaluated: the harness judges it.
    """
    if steps < 1 or restarts < 1:
        raise UsageError(f"steps={steps} and restarts={restarts} must be at least 1")
    eps = threat.radius
    wanted = ctx.steps_wanted or (steps,)
    objective = _objective(model, x, y, loss, kappa)
    snapshots: dict[int, Result] = {}
    broken: dict[int, torch.Tensor] = {}
    for restart in range(restarts):
        begin = x if start == "none" else (x + eps * ctx.noise(f"start:{restart}")).clamp(0.0, 1.0)
        run = _one_run(model, x, y, begin, objective, eps, step, wanted, ctx.reached)
        for done, result in run.items() if restarts > 1 else ():
            with torch.no_grad():
                breaks = misclassified(model(result.last), y)
            ctx.charge(done)
            if restart:
                result = _either(x, snapshots[done], result, later=breaks & ~broken[done])
                breaks |= broken[done]
            snapshots[done], broken[done] = result, breaks
        snapshots = snapshots or run
    return Result(last=snapshots[steps].last, any=snapshots[steps].any, snapshots=snapshots)


def _one_run(
    model: Oracle, x: Images, y: Labels, begin: Images, objective: Objective, eps: float, step: float,
    wanted: Sequence[int], reached: Callable[[int], None],
) -> dict[int, Result]:  # fmt: skip
    first = x
    broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    snapshots: dict[int, Result] = {}

    def loss(point: torch.Tensor) -> torch.Tensor:
        nonlocal first, broken
        logits = model(point)
        with torch.no_grad():
            new = misclassified(logits, y) & ~broken
            first, broken = where_rows(new, point.detach(), first), broken | new
        return objective(logits)

    def observe(done: int, point: torch.Tensor) -> None:
        if done in wanted:
            reached(done)
            snapshots[done] = Result(last=point.detach().clone(), any=first)

    ascend(loss, begin, step, project_linf(x, eps), max(wanted), observe)
    return snapshots


def _either(x: Images, earlier: Result, result: Result, later: torch.Tensor) -> Result:
    """Example by example the earlier restarts' result, unless only the later one succeeds."""
    first, second = cast("Images", earlier.any), cast("Images", result.any)
    unbroken = (first == x).flatten(1).all(dim=1)
    return Result(last=where_rows(later, result.last, earlier.last), any=where_rows(unbroken, second, first))


def _objective(model: Oracle, x: Images, y: Labels, loss: str, kappa: float) -> Objective:
    """Logits -> what each example ascends: cross-entropy, minus the margin (with a dead zone beyond -kappa), or minus
    the cross-entropy against the class that is least likely on the clean image, the true one excepted."""
    if loss == "ce":
        return lambda logits: cross_entropy(logits, y)
    if loss == "margin":
        return lambda logits: -margin(logits, y).clamp_min(-kappa)
    with torch.no_grad():
        target = model(x).scatter(1, y.unsqueeze(1), float("inf")).argmin(dim=1)
    return lambda logits: -cross_entropy(logits, target)
