"""The budget and the step that a dataset declares for a kind of threat."""

from __future__ import annotations

from fractions import Fraction

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
