"""What the checks ask of cells: accuracies, families of runs that differ in one thing, images that both have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.registry.names import parse_name, split_target

if TYPE_CHECKING:
    from harness.results.cells import CellResult

WHITE_BOX = ("static", "adaptive")


def accuracy(cell: CellResult) -> float:
    """Per cent still correct, reading `robust`."""
    return points(cell.robust.count("1"), cell.n)


def points(count: int, n: int) -> float:
    """A count as per cent of n."""
    return 100 * count / n


def told(cell: CellResult) -> str:
    """A cell with its number, for evidence."""
    return f"{cell.attack} {accuracy(cell):.1f}"


def name(cell: CellResult) -> str:
    """The attack without its parameters and its target."""
    return parse_name(split_target(cell.attack)[0])[0]


def knows_deployed(cell: CellResult) -> bool:
    """Whether gradients of what is deployed, or of a stand-in made to replace it, were followed."""
    return cell.knowledge == "adaptive" or (cell.knowledge == "static" and not cell.on)


def crafted_elsewhere(cell: CellResult) -> bool:
    """Whether the images were made against another network than the one deployed, which they are judged on."""
    return cell.knowledge == "transfer" or (cell.knowledge == "static" and bool(cell.on))


def families(cells: Iterable[CellResult], *free: str) -> list[list[CellResult]]:
    """Runs of one attack on one network, over the same images, that differ in the `free` parameters at most.

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
