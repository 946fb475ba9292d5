"""Calling an attack and picking from what it returned."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import HarnessError
from harness.evaluation.context import AttackContext
from harness.evaluation.isolation import isolated
from harness.evaluation.oracle import NoGradient, Oracle
from harness.types import Attack, Result, ThreatModel, Value

if TYPE_CHECKING:
    from harness.types import Images, Labels


def run_attack(
    attack: Attack, oracle: Oracle, x: Images, y: Labels, threat: ThreatModel, ctx: AttackContext,
    params: Mapping[str, Value],
) -> tuple[Any, str]:  # fmt: skip
    """Call an attack on copies of its inputs, in isolation; return what it returned and what it printed.

    Fractions among the parameters are handed over as floats. Global generators are seeded from the seed, the data and
    the first example of `ctx`.

    Raises:
        NoGradient: where the attack fails because the answers of the model carry no gradient.
    """
    arguments: dict[str, Any] = {k: float(v) if isinstance(v, Fraction) else v for k, v in params.items()}
    if takes_ctx(attack):
        arguments["ctx"] = ctx
    with isolated("attack", ctx.seed, ctx.data_sha256, ctx.examples[0]) as output:
        try:
            returned = attack.run(oracle, x.clone(), y.clone(), threat, **arguments)
        except RuntimeError as error:
            if _without_gradient(oracle, x, str(error)):
                raise NoGradient(
                    "the model's answers carry no gradient (no_grad, numpy, detach or quantised layers in forward): "
                    "attack it without gradients, with square, rays or spsa"
                ) from error
            raise
    return returned, output.getvalue()


def _without_gradient(oracle: Oracle, x: Images, words: str) -> bool:
    """Tell whether an attack failed because the model hands no gradient back, as quantised layers do not."""
    if oracle.gradient_free and "does not require grad" in words:
        return True
    if oracle.access != "gradient" or "not have been used in the graph" not in words:
        return False
    point = x[:1].clone().requires_grad_(True)
    with torch.enable_grad():
        answer = oracle.network(point).sum()
        return not answer.requires_grad or torch.autograd.grad(answer, point, allow_unused=True)[0] is None


def pick(attack: Attack, returned: Any, steps: int, longest: int, prefix: str | None) -> Result:
    """Pick the result for `steps`, a value of the prefix parameter, out of what an attack returned.

    Plain images become a `Result`. `longest`: the value that the attack ran with, whose result needs no snapshot.

    Raises:
        HarnessError: where the attack returned something else, or no snapshot for it.
    """
    result = Result(last=returned) if isinstance(returned, torch.Tensor) else returned
    if type(result) is not Result:
        raise HarnessError(f"attack '{attack.name}' returned {type(returned).__name__}; return images or a Result")
    if prefix is None or (steps == longest and steps not in (result.snapshots or {})):
        return result
    if result.snapshots is None or steps not in result.snapshots:
        raise HarnessError(f"attack '{attack.name}' declares prefix '{prefix}' but gave no snapshot for {steps}")
    return pick(attack, result.snapshots[steps], steps, longest, None)


def takes_ctx(attack: Attack) -> bool:
    """Tell whether the attack's function accepts `ctx`; one that does not draws from global generators, if at all."""
    run = getattr(attack.run, "resolve", lambda: attack.run)()
    return any(p.name == "ctx" or p.kind is p.VAR_KEYWORD for p in inspect.signature(run).parameters.values())
