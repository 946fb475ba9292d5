"""What changed between two sets of records, cell by cell, ready to be posted as a comment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.leaderboard.markdown import joined
from harness.leaderboard.tables import percent
from harness.results.naming import data_titles
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
    """List every cell and worst case whose bits differ, or that only one side has.

    Rows belong together by what they are (`Row.key`), the others by name, network, recipe, seed and images: retrained,
    a row is still itself; on other images it is another.
    """
    named = _named(old, new)
    before, after = _cells(old, named), _cells(new, named)
    found = []
    for key in sorted(before.keys() | after.keys()):
        first, second = before.get(key, ""), after.get(key, "")
        if first != second:
            row, (attack, threat) = ", ".join(key[:-2]), key[-2:]
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


def _named(old: Sequence[Row], new: Sequence[Row]) -> dict[int, Key]:
    """Name the rows of both sides, by their ids: with their weights and source where either has several of a name."""
    titles = data_titles([*old, *new])
    known = {row.key: row for row in old}
    twins = [[(row, known.get(row.key, row)) for row in side] for side in (old, new)]

    def short(row: Row) -> Key:
        training = f"training seed {row.train_seed}"
        return (row.defense, titles[row.data_sha256], row.arch, row.recipe, training)

    several = {name for side in twins for name, count in Counter(short(twin) for _, twin in side).items() if count > 1}
    return {
        id(row): (*short(twin), f"weights {twin.weights_sha256[:12]}", twin.defense_origin)
        if short(twin) in several
        else short(twin)
        for side in twins
        for row, twin in side
    }


def _cells(rows: Sequence[Row], named: Mapping[int, Key]) -> dict[Key, str]:
    found: dict[Key, str] = {}
    for row in rows:
        name = named[id(row)]
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
