"""The budget and the step that a dataset declares for a kind of threat."""

from __future__ import annotations

import math
from fractions import Fraction

from harness.errors import UsageError
from harness.registry.registry import Registry
from harness.types import (
    FROM_DATASET,
    Dataset,
    ThreatKind,
    ThreatModel,
    Value,
)


def own_threat(name: str, dataset: Dataset, registry: Registry) -> ThreatModel | None:
    """Find the dataset's budget of a kind, as a threat model; None where it has none and the kind needs one."""
    kind = registry.get(ThreatKind, name).spec
    eps = dataset.budgets.get(name, dataset.budgets.get(kind.budget_of))
    return ThreatModel(kind=name, eps=eps) if eps is not None or not kind.bounded or name == "none" else None


def with_step(params: dict[str, Value], threat: ThreatModel, share: Fraction) -> dict[str, Value]:
    """Fill the dataset's step in, `share` times eps, where the attack leaves it open; None where there is no eps."""
    step = threat.eps * share if threat.eps is not None else None
    return {key: step if value == FROM_DATASET else value for key, value in params.items()}


def asked_threat(text: str, dataset: Dataset, registry: Registry) -> ThreatModel:
    """Read a threat model as users type it; without a budget it is the dataset's.

    Raises:
        UsageError: for a budget that is missing, that the kind has not, or that every image is inside of.
    """
    threat = ThreatModel.parse(text)
    kind = registry.get(ThreatKind, threat.kind).spec
    if threat.eps is not None and (not kind.bounded or kind.name == "none"):
        raise UsageError(f"--threat {text}: {kind.name} has no budget")
    if threat.eps is None and (own := own_threat(threat.kind, dataset, registry)) is not None:
        return own
    if threat.eps is None:
        raise UsageError(f"--threat {text}: dataset '{dataset.name}' has no {text} budget; write {text}:EPS")
    if threat.kind == "linf" and threat.eps is not None and threat.eps > 1:
        raise UsageError(
            f"--threat {text}: eps is on the [0, 1] pixel scale; did you mean {threat.kind}:{threat.eps}/255?"
        )
    farthest = _farthest(threat.kind, dataset)
    if farthest is not None and threat.eps is not None and threat.eps > farthest:
        raise UsageError(
            f"--threat {text}: no image is farther than {threat.kind}:{farthest:g} from another at "
            f"{'x'.join(map(str, dataset.shape or ()))} pixels in [0, 1]; every image would be inside"
        )
    return threat


def _farthest(kind: str, dataset: Dataset) -> float | None:
    """Compute the distance from a black to a white image, where the norm and the shape of the images are known."""
    if dataset.shape is None:
        return None
    values = math.prod(dataset.shape)
    return {"linf": 1.0, "l2": math.sqrt(values), "l1": float(values), "l0": float(values)}.get(kind)
