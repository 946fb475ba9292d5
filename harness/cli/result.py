"""The end of a run on the screen: its tables, its flags, what has no number, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from harness.cli.screen import Screen
from harness.evaluation.attempt import NOT_APPLICABLE
from harness.leaderboard.analyses import analyses_csv, analysis_lines, short
from harness.leaderboard.tables import (
    READINGS,
    States,
    attack_columns,
    cell_text,
    flag_notes,
    has_readings,
    has_worst_case,
    percent,
    reading_text,
    sections,
    tidy,
    wide,
    worst_text,
)
from harness.results.rows import Row, rows
from harness.running.outcome import Outcome
from harness.storage import atomic
from harness.types import Skip


def result(screen: Screen, outcome: Outcome, skips: Sequence[Skip]) -> None:
    """Print the tables, write them beside the records, and say what to do next."""
    states = {(f.defense, f.attack, f.threat): (f.state, f.reason) for f in outcome.failures}
    found = present(outcome, states)
    for table in tables(found, states):
        screen.out.print(table)
    if measured := analysis_lines(found):
        screen.out.print(_analyses(measured))
    for line in flag_notes(found):
        screen.out.print(f"flag  {line}")
    for (defense, attack, _), (state, reason) in sorted(states.items()):
        screen.out.print(f"{state}  {attack} on {defense}: {reason}")
    states |= {(skip.defense, skip.attack, ""): (NOT_APPLICABLE, skip.reason) for skip in skips}
    counts = f"{outcome.computed} shards computed, {outcome.reused} reused"
    failed = sum(failure.state != NOT_APPLICABLE for failure in outcome.failures)
    left = len(skips) + len(outcome.failures) - failed
    screen.note(f"{counts}, {failed} cells without a number, {left} left out")
    if outcome.run is not None:
        _write(screen, outcome.run, found, states)
    if outcome.interrupted:
        screen.note("interrupted: finished epochs and shards are kept; run the same command to go on")


def _write(screen: Screen, run: Path, found: Sequence[Row], states: States) -> None:
    atomic.replace(run / "table.csv", tidy(found, states).encode())
    atomic.replace(run / "table.md", wide(found, states).encode())
    if analyses := analyses_csv(found):
        atomic.replace(run / "analyses.csv", analyses.encode())
    screen.note(f"wrote {run}/records.jsonl, table.csv, table.md   next: harness leaderboard build BOARD --add {run}")


def present(outcome: Outcome, states: States) -> list[Row]:
    """The rows of a run: only cells that are whole, and a row without cells for each defense that has none."""
    named = ("defense", "attack", "threat")
    found = rows(r for r in outcome.records if tuple(r["identity"].get(name) for name in named) not in states)
    for subject in outcome.subjects:
        if subject.defense not in {row.defense for row in found}:
            empty = Row(
                dataset=outcome.dataset, data_sha256="", defense=subject.defense, arch=subject.arch,
                recipe=subject.recipe.name if subject.recipe else "own", train_seed=subject.train_seed,
                weights_sha256="",
            )  # fmt: skip
            found.append(empty)
    return found


def tables(found: Sequence[Row], states: States) -> list[Table]:
    """One table for each dataset and threat model: an attack a line, a defense a column."""
    return [_table(dataset, threat, here, states) for dataset, threat, here in sections(found, states)]


def _analyses(lines: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="analyses", title_justify="left")
    shown = ("defense", "analysis", "quantity", "value", "unit", "n")
    for name in shown:
        table.add_column(name, justify="right" if name in ("value", "n") else "left")
    for line in lines:
        table.add_row(*[str({**line, "value": short(line)}[name]) for name in shown])
    return table


def _table(dataset: str, threat: str, found: Sequence[Row], states: States) -> Table:
    title = f"{dataset}, {threat}: per cent still correct, 95 % interval"
    table = Table(title=title, title_justify="left")
    table.add_column("attack")
    for row in found:
        table.add_column(f"{row.name}\n{row.arch}, {row.recipe}", justify="right")
    table.add_row("clean", *[percent(row.clean) for row in found])
    for attack in attack_columns(found, threat, states):
        if threat != "none":
            table.add_row(attack, *[cell_text(row, attack, threat, states) for row in found])
    if has_worst_case(found, threat):
        table.add_section()
        for reading in READINGS if has_readings(found, threat) else ():
            table.add_row(f"worst, {reading}", *[reading_text(row, threat, reading) for row in found])
        table.add_row("worst case", *[worst_text(row, threat, states) for row in found], style="bold")
    return table
