"""What more of the same does: more steps, more restarts, a larger budget."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from harness.results.audit import thresholds as t
from harness.results.audit.cells import WHITE_BOX, accuracy, budget, families, points, reach, told

if TYPE_CHECKING:
    from harness.results.cells import CellResult


def grown(attacks: Sequence[CellResult], probes: Mapping[str, float]) -> dict[str, str]:
    """Collect the flags that come from runs of one attack that differ in how much they were given.

    `probes`: what was measured of the network where there are no cells.
    """
    found = {
        "not_monotone_steps": _rising(attacks),
        "steps_matter": _gains(attacks, "steps", t.STEPS_GAIN, t.MANY_STEPS),
        "restarts_matter": _gains(attacks, "restarts", t.RESTARTS_GAIN, 1),
        "eps_floor": [*_floor(attacks, probes), *_rising_budget(attacks)],
        "under_reach": [cell.attack for cell in attacks if _under_reach(cell)],
    }
    return {name: "; ".join(evidence) for name, evidence in found.items() if evidence}


def _rising(attacks: Sequence[CellResult]) -> list[str]:
    """Find runs whose last iterate leaves more images standing than with fewer steps."""
    found = []
    for fewer, more in _pairs(attacks, "steps"):
        rise = more.robust_last.count("1") - fewer.robust_last.count("1")
        if rise >= t.IMAGES and points(rise, more.n) > t.RISE:
            found.append(f"{more.attack} leaves {rise} of {more.n} images more standing than {fewer.attack}")
    return found


def _gains(attacks: Sequence[CellResult], parameter: str, threshold: float, enough: int) -> list[str]:
    """Find runs that break more images than a run that should have been enough."""
    found = []
    for fewer, more in _pairs(attacks, parameter, all_pairs=True):
        gain = fewer.robust.count("1") - more.robust.count("1")
        given = fewer.number(parameter)
        if given >= enough and gain >= t.IMAGES and points(gain, more.n) > threshold:
            found.append(f"{told(fewer)}, {told(more)}")
    return found


def _pairs(
    attacks: Sequence[CellResult], parameter: str, all_pairs: bool = False
) -> list[tuple[CellResult, CellResult]]:
    """Pair less with more of a parameter within each family: neighbours, or all pairs."""
    found: list[tuple[CellResult, CellResult]] = []
    numbered = [cell for cell in attacks if type(cell.params.get(parameter)) is int]
    for family in families(numbered, parameter):
        ordered = sorted(family, key=lambda cell: cell.number(parameter))
        found += itertools.combinations(ordered, 2) if all_pairs else itertools.pairwise(ordered)
    return found


def _floor(attacks: Sequence[CellResult], probes: Mapping[str, float]) -> list[str]:
    """Find what stands where the budget covers every image: as probed, and under attacks with such a budget."""
    seen = {**probes, **{name: value for cell in attacks for name, value in cell.probes.items()}}
    if "chance" not in seen:
        return []
    limit = 100 * seen["chance"] + t.FLOOR
    told_of = {"steps at eps 1": 100 * seen.get("standing_at_eps_1", 0.0)}
    told_of |= {
        f"{cell.attack} at {cell.threat}": accuracy(cell)
        for cell in attacks
        if cell.knowledge in WHITE_BOX and budget(cell) is not None and cell.threat == "linf:1"
    }
    return [f"{name} {value:.1f}, chance {limit - t.FLOOR:.1f}" for name, value in told_of.items() if value > limit]


def _rising_budget(attacks: Sequence[CellResult]) -> list[str]:
    """Find runs that leave more images standing under a larger budget, of which each step is the same share."""
    found = []
    for family in families([cell for cell in attacks if budget(cell) is not None], "threat", "step"):
        ordered = sorted(family, key=lambda cell: (_share(cell), budget(cell) or 0))
        for smaller, larger in itertools.pairwise(ordered):
            rise = larger.robust.count("1") - smaller.robust.count("1")
            larger_budget = budget(smaller) != budget(larger) and _share(smaller) == _share(larger)
            if larger_budget and rise >= t.IMAGES and points(rise, larger.n) > t.RISE:
                text = f"{smaller.attack} {accuracy(smaller):.1f} at {smaller.threat}"
                found.append(f"{text}, {accuracy(larger):.1f} at {larger.threat}")
    return found


def _share(cell: CellResult) -> Fraction:
    """Divide the step by the budget; 0 where there is no step, or where the attack chooses it."""
    step, eps = cell.params.get("step"), budget(cell)
    return Fraction(str(step)) / eps if step and eps else Fraction(0)


def _under_reach(cell: CellResult) -> bool:
    reached, eps = reach(cell), budget(cell)
    return cell.number("steps") > 1 and reached is not None and eps is not None and reached < eps
