"""Red flags: what the records themselves say against a number, with the evidence. Thresholds are here and only here.

Accuracies are in points (per cent). Flags never change a number.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.leaderboard.rows import CellResult, Row

CLEAN_SLACK = 0.1
SINGLE_STEP_SLACK = 0.5
MONOTONE_SLACK = 0.1
MONOTONE_IMAGES = 2

MEANING = {
    "false_claims": "the attack reported broken images that the harness judges correct",
    "limited": "fewer images than the split has; not ranked",
    "not_monotone_steps": "more steps of the same attack leave more images standing at its last iterate",
    "robust_ge_clean": "accuracy under attack is above clean accuracy",
    "single_step_wins": "a one-step attack beats every iterated one",
    "stochastic": "two passes over the same images give different logits",
    "under_reach": "steps times step is smaller than eps: the ball cannot be crossed",
    "weak_protocol": "attacks that this defense is known to need were not run",
}


def flags(row: Row) -> dict[str, str]:
    """Name -> evidence of every flag that a row raises."""
    found: dict[str, str] = {}
    cells = list(row.cells.values())
    counted = {name: sum(cell.flags.get(name, 0) for cell in cells) for name in ("false_claims", "stochastic")}
    found.update({name: f"{count:g}" for name, count in counted.items() if count})
    if short := min((cell for cell in cells if cell.n < cell.split_size), key=lambda cell: cell.n, default=None):
        found["limited"] = f"{short.n} of {short.split_size} images"
    attacks = [cell for cell in cells if cell.threat != "none"]
    above = [c for c in attacks if _points(c.raw.count("1"), c.n) > _points(c.clean.count("1"), c.n) + CLEAN_SLACK]
    if above:
        found["robust_ge_clean"] = ", ".join(cell.attack for cell in above)
    found.update(_single_step(attacks))
    found.update(_monotone(attacks))
    if reach := [cell.attack for cell in attacks if _under_reach(cell)]:
        found["under_reach"] = ", ".join(reach)
    if missing := [name for name in row.mandatory if name not in {cell.attack for cell in cells}]:
        found["weak_protocol"] = f"not run: {', '.join(missing)}"
    return dict(sorted(found.items()))


def _single_step(attacks: list[CellResult]) -> dict[str, str]:
    for threat in sorted({cell.threat for cell in attacks}):
        here = [cell for cell in attacks if cell.threat == threat and cell.backwards]
        single = [cell for cell in here if cell.backwards == cell.n]
        several = [cell for cell in here if cell.backwards > cell.n]
        if single and several:
            best, other = min(single, key=_accuracy), min(several, key=_accuracy)
            if _accuracy(best) < _accuracy(other) - SINGLE_STEP_SLACK:
                return {
                    "single_step_wins": f"{best.attack} {_accuracy(best):.1f}, {other.attack} {_accuracy(other):.1f}"
                }
    return {}


def _monotone(attacks: list[CellResult]) -> dict[str, str]:
    families: dict[str, list[CellResult]] = {}
    for cell in attacks:
        if isinstance(cell.params.get("steps"), int):
            rest = sorted((key, value) for key, value in cell.params.items() if key != "steps")
            families.setdefault(f"{cell.attack.partition('-')[0]} {cell.threat} {rest}", []).append(cell)
    for family in families.values():
        ordered = sorted(family, key=lambda cell: int(cell.params["steps"]))
        for fewer, more in itertools.pairwise(ordered):
            rise = fewer.last.count("1") - more.last.count("1")
            if fewer.n == more.n and rise >= MONOTONE_IMAGES and _points(rise, more.n) > MONOTONE_SLACK:
                return {"not_monotone_steps": f"{more.attack} leaves {rise} more images standing than {fewer.attack}"}
    return {}


def _under_reach(cell: CellResult) -> bool:
    steps, step, eps = cell.params.get("steps"), cell.params.get("step"), cell.threat.partition(":")[2]
    if not isinstance(steps, int) or not step or not eps:
        return False
    return steps > 1 and steps * Fraction(str(step)) < Fraction(eps)


def _accuracy(cell: CellResult) -> float:
    return _points(cell.robust.count("1"), cell.n)


def _points(count: int, n: int) -> float:
    return 100 * count / n
