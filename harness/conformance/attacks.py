"""What every attack is held to. The linear toy has an exact answer: the radius is the margin over the dual norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import nn

from harness import threats
from harness.conformance import toys
from harness.conformance.report import CheckResult, NotApplicable, run_checks
from harness.context import AttackContext
from harness.evaluate import Measurement, Refused, evaluate, pick, run_attack
from harness.judge import Judge
from harness.names import default_value
from harness.oracle import Oracle
from harness.types import FROM_DATASET, Attack, Cell, Result, Subject, ThreatKind, ThreatModel, Value

if TYPE_CHECKING:
    from harness.types import Images, Labels

STEP_SHARE = Fraction(1, 4)
EPS = {"linf": Fraction(1, 10), "l2": Fraction(1, 2), "l1": Fraction(2), "l0": Fraction(5)}
KINDS: dict[str, ThreatKind] = {kind.name: kind for kind in threats.harness_threat_models()}


def check_attack(attack: Attack) -> list[CheckResult]:
    """Hold an attack to every contract that applies to it."""
    return run_checks(attack, CONTRACTS)


def _valid(attack: Attack) -> None:
    """Returned images are inside the threat model, the model is untouched, and what it reports as broken breaks."""
    x, y = toys.images()
    result = _measured(attack, toys.tiny_net(), x, y, _threat(attack), 4)
    assert not result.flags, f"raised {result.flags}"


def _zero_budget(attack: Attack) -> None:
    """With eps = 0 it returns the clean image, bit for bit."""
    kind = _threat(attack).kind
    if kind in ("none", "unbounded") or attack.minimal:
        raise NotApplicable("it has no budget")
    x, y = toys.images()
    result = _run(attack, toys.tiny_net(), x, y, ThreatModel(kind=kind, eps=Fraction(0)))
    assert torch.equal(result.last, x), "eps = 0 changed an image"


def _loses_inside(attack: Attack) -> None:
    """At 0.9 of the exact radius of a linear model nobody can win."""
    model, x, y, threat = _linear(attack, Fraction(9, 10))
    result = _measured(attack, model, x, y, threat, 2)
    assert "1" not in result.any, f"won on {result.any.count('1')} of {len(x)} images that cannot be broken"


def _wins_outside(attack: Attack) -> None:
    """At 1.01 of the exact radius of a linear model every white-box attack wins."""
    if attack.access != "gradient":
        raise NotApplicable(f"{attack.access} access: nothing is promised in a few queries")
    model, x, y, threat = _linear(attack, Fraction(101, 100))
    result = _measured(attack, model, x, y, threat, 2)
    assert "0" not in result.any, f"failed on {result.any.count('0')} of {len(x)} images that a straight step breaks"


def _repeatable(attack: Attack) -> None:
    """Two runs give the same images, whatever the global generators did in between."""
    x, y = toys.images()
    first = _run(attack, toys.tiny_net(), x, y, _threat(attack))
    torch.rand(7)
    second = _run(attack, toys.tiny_net(), x, y, _threat(attack))
    assert torch.equal(first.last, second.last), "two runs differ: is there randomness outside ctx.noise and the seed?"


def _one_by_one(attack: Attack) -> None:
    """An image's verdict does not depend on the images beside it."""
    x, y = toys.images()
    together = _run(attack, toys.tiny_net(), x, y, _threat(attack))
    apart = [
        _run(attack, toys.tiny_net(), x[i : i + 1], y[i : i + 1], _threat(attack), offset=i) for i in range(len(x))
    ]
    difference = (torch.cat([result.last for result in apart]) - together.last).abs().amax()
    judge = Judge(toys.tiny_net(), 4, toys.SHAPE)
    alone = judge.broken(torch.cat([result.last for result in apart]), y, len(x))
    assert torch.equal(alone, judge.broken(together.last, y, len(x))), (
        "verdicts differ between a batch and single images"
    )
    assert difference <= 1e-4, f"images differ by {difference:.1e} between a batch and single images"


def _shift_invariant(attack: Attack) -> None:
    """Adding a constant to all logits changes no verdict, whatever its sign."""
    x, y = toys.images()
    plain = _measured(attack, toys.tiny_net(), x, y, _threat(attack), 4)
    for shift in (100.0, -100.0):
        shifted = _measured(attack, toys.Shifted(toys.tiny_net(), shift), x, y, _threat(attack), 4)
        different = sum(a != b for a, b in zip(plain.any, shifted.any, strict=True))
        assert different <= 1, f"{different} verdicts changed when {shift:g} was added to all logits"


def _prefix(attack: Attack) -> None:
    """A snapshot of a longer run equals a separate shorter run, bit for bit, at the same cost; with restarts too."""
    if attack.prefix is None:
        raise NotApplicable("it declares no prefix parameter")
    x, y = toys.images()
    wanted = (2, 5, 7)
    variants: list[dict[str, Value]] = [{}, {"restarts": 3}]
    for more in variants[: 1 + ("restarts" in attack.params)]:
        shared, costs = _shared(attack, toys.tiny_net(), x, y, wanted, more)
        for steps in wanted:
            separate, cost = _shared(attack, toys.tiny_net(), x, y, (steps,), more)
            assert torch.equal(shared[steps].last, separate[steps].last), f"last differs at {attack.prefix}={steps}"
            both = (shared[steps].any, separate[steps].any)
            assert both[0] is None or both[1] is None or torch.equal(both[0], both[1]), f"any differs at {steps}"
            assert costs.get(steps) == cost.get(steps), f"cost differs at {steps}: is ctx.reached called?"


def _spares_inputs(attack: Attack) -> None:
    """Images and labels it is given are not written to."""
    x, y = toys.images()
    before = x.clone(), y.clone()
    oracle = Oracle(toys.tiny_net(), attack.access)
    ctx = _context(attack, oracle, x)
    inputs = [x, y]

    class _Handed:
        """Hands the very tensors over, where the harness hands copies."""

        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def clone(self) -> torch.Tensor:
            return self.tensor

    handed = [_Handed(tensor) for tensor in inputs]
    run_attack(attack, oracle, handed[0], handed[1], _threat(attack), ctx, _params(attack, _threat(attack)))  # type: ignore[arg-type]
    assert torch.equal(x, before[0]), "it wrote to the images it was given"
    assert torch.equal(y, before[1]), "it wrote to the labels it was given"


CONTRACTS: dict[str, Callable[[Attack], None]] = {
    "keeps to the threat model": _valid,
    "eps 0 changes nothing": _zero_budget,
    "loses inside the exact radius": _loses_inside,
    "wins outside the exact radius": _wins_outside,
    "same twice": _repeatable,
    "same in a batch and alone": _one_by_one,
    "indifferent to shifted logits": _shift_invariant,
    "snapshots equal separate runs": _prefix,
    "spares its inputs": _spares_inputs,
}


def _threat(attack: Attack) -> ThreatModel:
    kind = attack.threats[0]
    if kind not in KINDS:
        raise NotApplicable(f"threat kind {kind} brings its own tests")
    return ThreatModel(kind=kind, eps=EPS.get(kind))


def _linear(attack: Attack, share: Fraction) -> tuple[nn.Module, Images, Labels, ThreatModel]:
    kind = _threat(attack).kind
    if kind not in toys.DUALS:
        raise NotApplicable(f"no exact radius under {kind}")
    model, x, y, radius = toys.linear_problem(kind)
    return model, x, y, ThreatModel(kind=kind, eps=radius * share)


def _params(attack: Attack, threat: ThreatModel) -> dict[str, Value]:
    step = threat.eps * STEP_SHARE if threat.eps is not None else None
    values = {name: default_value(default) for name, default in attack.params.items()}
    return {name: step if value == FROM_DATASET else value for name, value in values.items()}


def _measured(attack: Attack, model: nn.Module, x: Images, y: Labels, threat: ThreatModel, k: int) -> Measurement:
    nobody = Subject(defense="toy", defense_params={}, arch="toy", arch_params={}, recipe=None)
    cell = Cell(subject=nobody, attack=attack.name, params=_params(attack, threat), threat=threat)
    results, _ = evaluate(Judge(model, k, toys.SHAPE), toys.shard(x, y), attack, [cell], KINDS[threat.kind], len(x))
    assert not isinstance(results[0], Refused), f"refused: {results[0]}"
    return results[0]


def _context(attack: Attack, oracle: Oracle, x: Images, wanted: tuple[int, ...] = (), offset: int = 0) -> AttackContext:
    examples = range(offset, offset + len(x))
    return AttackContext(oracle, x, seed=0, data_sha256=toys.TOY_SHA256, examples=examples, steps_wanted=wanted)


def _run(attack: Attack, model: nn.Module, x: Images, y: Labels, threat: ThreatModel, offset: int = 0) -> Result:
    oracle = Oracle(model, attack.access)
    ctx = _context(attack, oracle, x, offset=offset)
    returned, _ = run_attack(attack, oracle, x, y, threat, ctx, _params(attack, threat))
    return pick(attack, returned, 0, 0, None)


def _shared(
    attack: Attack, model: nn.Module, x: Images, y: Labels, wanted: tuple[int, ...], more: Mapping[str, Value]
) -> tuple[dict[int, Result], dict[int, tuple[int, int]]]:
    oracle = Oracle(model, attack.access)
    ctx = _context(attack, oracle, x, wanted)
    params = {**_params(attack, _threat(attack)), **more, str(attack.prefix): max(wanted)}
    returned, _ = run_attack(attack, oracle, x, y, _threat(attack), ctx, params)
    return {steps: pick(attack, returned, steps, max(wanted), attack.prefix) for steps in wanted}, ctx.costs
