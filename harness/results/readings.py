"""What attackers know, and what is told of each: the readings of a worst case are never merged without saying so."""

from __future__ import annotations

from collections.abc import Sequence

from harness.results.cells import CellResult
from harness.results.rows import Row

KNOWS = {
    "static": "follow the gradients of the network and know of nothing around it",
    "transfer": "have another network only",
    "blackbox": "see answers of what is deployed only",
    "adaptive": "know the defense and attack what is deployed",
}
"""What attackers may know, in the order of the columns; the worst case over all of them comes last."""


def knowledge_notes(rows: Sequence[Row], threat: str) -> list[str]:
    """Write lines for the caption of a table.

    They say what its attackers know, who each of them is, and how many predictions stand behind a verdict.
    """
    cells = [(row, cell) for row in rows for cell in row.cells.values() if cell.threat == threat]
    attacks = list(dict.fromkeys(cell.attack for _, cell in cells))
    notes = []
    for knowledge, words in KNOWS.items():
        named = [name for attack in attacks if (name := _named(attack, knowledge, cells))]
        if named:
            notes.append(f"{knowledge} attackers {words}: {', '.join(named)}")
    for votes in sorted({cell.votes for _, cell in cells} - {1}):
        notes.append(f"passes={votes}: broken is what more than half of {votes} fresh predictions get wrong")
    return notes


def _named(attack: str, knowledge: str, cells: Sequence[tuple[Row, CellResult]]) -> str:
    """Name an attack that knows so much, with the defenses where it does not do so on all; empty where on none."""
    here = [(row, cell) for row, cell in cells if cell.attack == attack]
    so_much = [row.title for row, cell in here if cell.knowledge == knowledge]
    if not so_much or len(so_much) == len(here):
        return attack if so_much else ""
    return f"{attack} ({', '.join(dict.fromkeys(so_much))})"
