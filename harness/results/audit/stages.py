"""Ensembles that contain an attack without gradients: what each of their halves broke, by the detail `stage`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness.results.audit.cells import name

if TYPE_CHECKING:
    from harness.results.cells import CellResult

SQUARE: Mapping[str, Mapping[int, int]] = {
    "aa_standard": {0: 4},
    "aa_plus": {0: 4},
    "aa_few_class": {2: 4, 3: 6, 4: 5},
}
"""Ensemble -> number of classes, 0 for any -> the place of Square among its stages, counted from 1.

The other stages follow gradients.
"""


def by_gradients(cell: CellResult) -> str:
    """Give a bit for each image: right when clean, and not broken by what follows gradients."""
    return _standing(cell, square=False)


def by_square(cell: CellResult) -> str:
    """Give a bit for each image: right when clean, and not broken by Square in an ensemble.

    Empty where the attack contains none, or does not tell which stage broke what.
    """
    return _standing(cell, square=True) if _place(cell) else ""


def _standing(cell: CellResult, *, square: bool) -> str:
    place = _place(cell)
    if not place:
        return cell.robust
    broke = [
        hit == "1" and (stage == place) == square for hit, stage in zip(cell.any, cell.details["stage"], strict=True)
    ]
    return "".join("1" if right == "1" and not hit else "0" for right, hit in zip(cell.clean, broke, strict=True))


def _place(cell: CellResult) -> int:
    """Find the place of Square among the stages of an attack, 0 where there is none or no stages are told."""
    places = SQUARE.get(name(cell), {}) if "stage" in cell.details else {}
    chance = cell.probes.get("chance", 0.0)
    return places.get(round(1 / chance) if chance else 0, places.get(0, 0))
