"""What changed between two sets of records, cell by cell, ready to be posted as a comment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.leaderboard.markdown import joined
from harness.leaderboard.tables import percent
from harness.results.rows import Row
from harness.results.stats import wilson

ADDED, MISSING, WITHIN, OUTSIDE = "added", "missing", "within the interval", "outside the interval"
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One cell that changed. `old` and `new`: a bit for each image, 1 where it is robust; empty without the cell."""

    row: str
    attack: str
    threat: str
    old: str
    new: str
    verdict: str

    @property
    def is_regression(self) -> bool:
        """Tell whether a cell went away, or its accuracy left the interval of the old one."""
        return self.verdict in (MISSING, OUTSIDE)


def changes(old: Sequence[Row], new: Sequence[Row]) -> list[Change]:
    """List every cell and worst case whose bits differ, or that only one side has."""
    before, after = _cells(old), _cells(new)
    found = []
    for key in sorted(before.keys() | after.keys()):
        first, second = before.get(key, ""), after.get(key, "")
        if first != second:
            row, attack, threat = ", ".join(key[:5]), key[5], key[6]
            verdict = _verdict(first, second)
            found.append(Change(row=row, attack=attack, threat=threat, old=first, new=second, verdict=verdict))
    return found


def changes_markdown(found: Sequence[Change]) -> str:
    """Write the changes as a Markdown table, and how many of them are regressions."""
    if not found:
        return "No cell changed.\n"
    lines = [joined(["Row", "Attack", "Threat model", "Old", "New", "Verdict"]), joined(["---"] * 6)]
    for change in found:
        told = [percent(bits) if bits else "none" for bits in (change.old, change.new)]
        lines.append(joined([change.row, change.attack, change.threat, *told, change.verdict]))
    worse = sum(change.is_regression for change in found)
    return (
        "\n".join([*lines, "", f"{len(found)} cells changed, {worse} of them missing or outside the old interval."])
        + "\n"
    )


def _cells(rows: Sequence[Row]) -> dict[Key, str]:
    found: dict[Key, str] = {}
    for row in rows:
        name = (row.defense, row.dataset, row.arch, row.recipe, f"training seed {row.train_seed}")
        for (attack, threat, seed), cell in row.cells.items():
            found[(*name, f"{attack}, seed {seed}" if seed else attack, threat)] = cell.robust
        for threat in row.ranked_threats():
            found[(*name, "worst case", threat)] = row.worst(threat)
    return found


def _verdict(old: str, new: str) -> str:
    if not old or not new:
        return MISSING if old else ADDED
    low, high = wilson(old.count("1"), len(old))
    return WITHIN if low <= new.count("1") / len(new) <= high else OUTSIDE
