"""How far numbers move with the training seed and with the attack's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.results.cells import CellResult
from harness.results.readings import KNOWS
from harness.results.rows import Row


def trainings(rows: Sequence[Row]) -> list[list[Row]]:
    """Group the rows that differ in their training seed alone, the lowest seed first; see `Row.subject`."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.train_seed):
        found.setdefault(row.subject, []).append(row)
    return list(found.values())


def spread(values: Sequence[float], of: str) -> str:
    """Write the range of accuracies in per cent, `42.8 to 50.0 over 3 trainings`; empty for a single value."""
    return f"{min(values):.1f} to {max(values):.1f} over {len(values)} {of}" if len(values) > 1 else ""


def training_notes(rows: Sequence[Row], threat: str) -> Iterator[str]:
    """Write a line for each defense trained with several seeds: clean accuracy, and the worst case by knowledge.

    Each over what all of its trainings have: the same attacks, on the same images.
    """
    for together in trainings(rows):
        told = _told("clean", [row.clean for row in together])
        for knowledge in (*KNOWS, "") if all(threat in row.ranked_threats() for row in together) else ():
            name = f"worst case, {knowledge}" if knowledge else "worst case"
            told += _told(name, _worst(together, threat, knowledge))
        if len(together) > 1:
            first = together[0]
            name = first.title if first.distinction else f"{first.defense} ({first.arch}, {first.recipe})"
            yield f"{name}: {'; '.join(told)}"


def attack_spread(cells: Sequence[CellResult]) -> str:
    """Write the range of one cell's accuracy over the seeds of its attack; empty for a single one."""
    return spread([_share(cell.robust) for cell in cells], "attack seeds")


def _worst(together: Sequence[Row], threat: str, knowledge: str) -> list[str]:
    """Derive the worst case of each row over the cells that all of them have."""
    common = set.intersection(*(set(row.cells) for row in together))
    return [row.worst(threat, knowledge, common) for row in together]


def _told(name: str, bits: Sequence[str]) -> list[str]:
    """Write the range over the images that all have; an empty list where there is none."""
    n = min(len(found) for found in bits)
    text = spread([_share(found[:n]) for found in bits], "trainings") if n else ""
    return [f"{name} {text}"] if text else []


def _share(bits: str) -> float:
    return 100 * bits.count("1") / len(bits)
