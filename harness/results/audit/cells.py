"""What the checks ask of cells: accuracies, families of runs that differ in one thing, images that both have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

from harness.registry.names import parse_name, split_target

if TYPE_CHECKING:
    from harness.results.cells import CellResult

WHITE_BOX = ("static", "adaptive")


def accuracy(cell: CellResult) -> float:
    """Compute the robust accuracy of a cell in per cent, reading `robust`."""
    return points(cell.robust.count("1"), cell.n)


def points(count: int, n: int) -> float:
    """Convert a count to per cent of n."""
    return 100 * count / n


def told(cell: CellResult) -> str:
    """Write a cell with its robust accuracy, as evidence."""
    return f"{cell.attack} {accuracy(cell):.1f}"


def name(cell: CellResult) -> str:
    """Read the name of the attack, without its parameters and its stand-in."""
    return parse_name(split_target(cell.attack)[0])[0]


def knows_deployed(cell: CellResult) -> bool:
    """Tell whether gradients of what is deployed, or of a stand-in made to replace it, were followed."""
    return cell.knowledge == "adaptive" or (cell.knowledge == "static" and not cell.on)


def crafted_elsewhere(cell: CellResult) -> bool:
    """Tell whether the images were made against another network than the deployed one that judges them."""
    return cell.knowledge == "transfer" or (cell.knowledge == "static" and bool(cell.on))


def budget(cell: CellResult) -> Fraction | None:
    """Read the eps of the threat model, on the [0, 1] scale for norms; None where there is none."""
    eps = cell.threat.partition(":")[2]
    return Fraction(eps) if eps else None


def reach(cell: CellResult) -> Fraction | None:
    """Multiply steps and step; None for an attack that states no step."""
    step = cell.params.get("step")
    return cell.number("steps") * Fraction(str(step)) if step and cell.number("steps") else None


def crosses(cell: CellResult) -> bool:
    """Tell whether a run can get from any point of the ball to any other, as far as its step is stated."""
    reached, eps = reach(cell), budget(cell)
    return reached is None or eps is None or reached >= 2 * eps


def families(cells: Iterable[CellResult], *free: str) -> list[list[CellResult]]:
    """Group runs of one attack on one network, over the same images, that differ in the `free` parameters at most.

    `threat` stands for the budget. Families of one are left out.
    """
    found: dict[tuple[str, ...], list[CellResult]] = {}
    for cell in cells:
        rest = sorted((key, str(value)) for key, value in cell.params.items() if key not in free)
        threat = cell.threat.partition(":")[0] if "threat" in free else cell.threat
        kind = re.sub(r"-\d+$", "", name(cell)) if "steps" in free else name(cell)
        key = (kind, threat, cell.on, str(cell.seed), str(cell.n), str(rest))
        found.setdefault(key, []).append(cell)
    return [family for family in found.values() if len(family) > 1]
