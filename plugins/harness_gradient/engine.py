"""The one engine: sign ascent in the linf ball, one run answering for every number of steps up to the longest."""

from collections.abc import Callable

import torch

from harness.api import Result
from harness.ops import ascend, cross_entropy, margin, misclassified, project_linf, rows

Objective = Callable[[torch.Tensor], torch.Tensor]


def clean(model, x, y, threat):
    return x


def fgsm(model, x, y, threat):
    eps = float(threat.eps)
    return ascend(lambda point: cross_entropy(model(point), y), x, eps, project_linf(x, eps), 1)


def climb(model, x, y, threat, *, ctx, steps, step, loss, kappa, start, restarts):
    """Climb `steps` times by `step` from each of `restarts` starts, and snapshot the wanted numbers of steps.

    `last` is the final iterate of the first restart whose final iterate is misclassified, else of the first restart.
    `any` is the first misclassified iterate over all restarts. Restarts run on the whole batch, so that a snapshot
    equals a separate run bit for bit. With one restart the final iterate is not evaluated: the harness judges it.
    """
    eps = float(threat.eps)
    wanted = ctx.steps_wanted or (steps,)
    objective = _objective(model, x, y, loss, kappa)
    snapshots: dict[int, Result] = {}
    for restart in range(restarts):
        begin = x if start == "none" else (x + eps * ctx.noise(f"start:{restart}")).clamp(0.0, 1.0)
        for done, result in _one_run(model, x, y, begin, objective, eps, step, wanted, ctx.reached).items():
            snapshots[done] = _either(model, x, y, snapshots[done], result) if restart else result
    return Result(last=snapshots[steps].last, any=snapshots[steps].any, snapshots=snapshots)


def _one_run(model, x, y, begin, objective, eps, step, wanted, reached) -> dict[int, Result]:
    first = x
    broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    snapshots: dict[int, Result] = {}

    def loss(point: torch.Tensor) -> torch.Tensor:
        nonlocal first, broken
        logits = model(point)
        with torch.no_grad():
            new = misclassified(logits, y) & ~broken
            first, broken = rows(new, point.detach(), first), broken | new
        return objective(logits)

    def observe(done: int, point: torch.Tensor) -> None:
        if done in wanted:
            reached(done)
            snapshots[done] = Result(last=point.detach().clone(), any=first)

    ascend(loss, begin, step, project_linf(x, eps), max(wanted), observe)
    return snapshots


def _either(model, x, y, earlier: Result, later: Result) -> Result:
    """Example by example the earlier restart's result, unless only the later one succeeds."""
    with torch.no_grad():
        stands = ~misclassified(model(earlier.last), y)
        improved = stands & misclassified(model(later.last), y)
    unbroken = (earlier.any == x).flatten(1).all(dim=1)
    return Result(last=rows(improved, later.last, earlier.last), any=rows(unbroken, later.any, earlier.any))


def _objective(model, x, y, loss: str, kappa: float) -> Objective:
    """Logits -> what each example climbs: cross-entropy, minus the margin (with a dead zone beyond -kappa), or minus
    the cross-entropy against the class that is least likely on the clean image, the true one excepted."""
    if loss == "ce":
        return lambda logits: cross_entropy(logits, y)
    if loss == "margin":
        return lambda logits: -margin(logits, y).clamp_min(-kappa)
    with torch.no_grad():
        target = model(x).scatter(1, y.unsqueeze(1), float("inf")).argmin(dim=1)
    return lambda logits: -cross_entropy(logits, target)
