"""Attacks measured as the harness measures: the one place in the tests that calls `evaluate` and `estimate`."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from harness.conformance import toys
from harness.data.shard import Shard
from harness.evaluation.context import Supplies
from harness.evaluation.evaluate import AttackRun, Evaluated, estimate, evaluate
from harness.evaluation.judge import Judge
from harness.evaluation.measurement import Measurement, Refused
from harness.registry import norms
from harness.registry.names import default_value
from harness.types import Attack, Cell, Subject, ThreatKind, ThreatModel
from support.plugins import toy_registry

NOBODY = Subject(defense="toy", defense_params={}, arch="toy", arch_params={}, recipe=None)
REGISTRY = toy_registry()
KINDS = {kind.name: kind for kind in norms.harness_threat_models()}
LINF = KINDS["linf"]
SHA = "ab" * 32
"""The sha256 of no data at all."""


def planted(run, **kwargs) -> Attack:
    """An attack of this function."""
    return Attack(**{"name": "planted", "run": run, "threats": ("linf",), **kwargs})


def cell_of(attack: Attack | str, threat: ThreatModel | str = "linf:1/20", params=None, **kwargs) -> Cell:
    """A cell of an attack on nobody in particular."""
    name = attack if isinstance(attack, str) else attack.name
    parsed = ThreatModel.parse(threat) if isinstance(threat, str) else threat
    return Cell(subject=NOBODY, attack=name, params=params or {}, threat=parsed, **kwargs)


def shard_of(x, y, sha256: str = SHA) -> Shard:
    """Images as the harness hands them to an attack; the sha256 of their data set keys its noise."""
    return Shard(start=0, stop=len(x), examples=tuple(range(len(x))), x=x, y=y, data_sha256=sha256)


def evaluated(
    judge: Judge, shard: Shard, attack: Attack, cells: Sequence[Cell], kind: ThreatKind = LINF, batch: int = 250, *,
    supplies: Supplies | None = None, lacking: np.ndarray | None = None,
) -> Evaluated:  # fmt: skip
    """What becomes of one shard under one attack."""
    run = AttackRun(judge=judge, attack=attack, cells=cells, kind=kind, batch=batch, supplies=supplies or Supplies())
    return evaluate(run, shard, lacking)


def estimated(
    judge: Judge, shard: Shard, attack: Attack, cells: Sequence[Cell], sizes: Sequence[int], *,
    kind: ThreatKind = LINF, batch: int = 250, supplies: Supplies | None = None,
) -> float:  # fmt: skip
    """How long shards of these sizes are expected to take."""
    run = AttackRun(judge=judge, attack=attack, cells=cells, kind=kind, batch=batch, supplies=supplies or Supplies())
    return estimate(run, shard, sizes)


def judged(
    attack: Attack, model, x, y, threat: ThreatModel, params: Mapping[str, object], *, batch: int | None = None,
    kind: ThreatKind | None = None, sha256: str = SHA, supplies: Supplies | None = None, on: str = "",
) -> Measurement | Refused:  # fmt: skip
    """What the judge makes of one attack on a model with as many classes as it answers, or on a judge's own."""
    judge = model if isinstance(model, Judge) else Judge(model, model(x[:1]).shape[1], tuple(x.shape[1:]))
    cell = cell_of(attack, threat, params, on=on)
    found = evaluated(
        judge, shard_of(x, y, sha256), attack, [cell], kind or KINDS[threat.kind], batch or len(x), supplies=supplies
    )
    assert found.printed == ""
    (result,) = found.results
    return result


def measured(*args, **kwargs) -> Measurement:
    """A measurement of one attack on one model; see `judged`."""
    found = judged(*args, **kwargs)
    assert isinstance(found, Measurement), found
    return found


def measure(attack: Attack | str, model=None, x=None, y=None, *, kind="linf", eps=Fraction(1, 20), batch=250):
    """One toy attack, or any other, on one toy model: its result, and what it printed."""
    spec = REGISTRY.get(Attack, attack).spec if isinstance(attack, str) else attack
    drawn = toys.images(n=32)
    x, y = drawn if x is None else (x, y)
    cell = cell_of(
        spec, ThreatModel(kind=kind, eps=eps), {name: default_value(value) for name, value in spec.params.items()}
    )
    judge = Judge(model or toys.tiny_net(), 4, toys.SHAPE)
    found = evaluated(judge, toys.shard(x, y), spec, [cell], REGISTRY.get(ThreatKind, kind).spec, batch)
    return found.results[0], found.printed
