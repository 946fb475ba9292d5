"""One toy attack on one toy model, measured as the harness measures."""

from fractions import Fraction

from harness.conformance import toys
from harness.evaluation.evaluate import evaluate
from harness.evaluation.judge import Judge
from harness.registry.names import default_value
from harness.types import Attack, Cell, Subject, ThreatKind, ThreatModel
from support.plugins import toy_registry

NOBODY = Subject(defense="toy", defense_params={}, arch="toy", arch_params={}, recipe=None)
REGISTRY = toy_registry()


def measure(attack: Attack | str, model=None, x=None, y=None, *, kind="linf", eps=Fraction(1, 20), batch=250):
    spec = REGISTRY.get(Attack, attack).spec if isinstance(attack, str) else attack
    drawn = toys.images(n=32)
    x, y = drawn if x is None else (x, y)
    threat = ThreatModel(kind=kind, eps=eps)
    params = {name: default_value(value) for name, value in spec.params.items()}
    cell = Cell(subject=NOBODY, attack=spec.name, params=params, threat=threat)
    judge = Judge(model or toys.tiny_net(), 4, toys.SHAPE)
    found = evaluate(judge, toys.shard(x, y), spec, [cell], REGISTRY.get(ThreatKind, kind).spec, batch)
    return found.results[0], found.printed
