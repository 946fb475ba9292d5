"""The end of a run on the screen: its tables, its flags, what has no number, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from harness.cli.screen import Screen
from harness.leaderboard.analyses import AnalysisLine, analysis_lines, short
from harness.leaderboard.tables import (
    READINGS,
    States,
    attack_columns,
    cell_text,
    has_readings,
    has_worst_case,
    percent,
    reading_text,
    sections,
    worst_text,
)
from harness.results.rows import Row
from harness.running.outcome import Outcome
from harness.running.report import Report


def result(screen: Screen, outcome: Outcome, report: Report) -> None:
    """Print the tables, and say where they are and what to do next."""
    for table in tables(report.rows, report.states):
        screen.out.print(table)
    if measured := analysis_lines(report.rows):
        screen.out.print(_analyses(measured))
    for line in report.flag_lines:
        screen.out.print(f"flag  {line}")
    for (defense, attack, _), (state, reason) in sorted(report.states.items()):
        screen.out.print(f"{state}  {attack} on {defense}: {reason}")
    counts = f"{outcome.computed} shards computed, {outcome.reused} reused"
    failed = sum(failure.state.counts_as_failure for failure in outcome.failures)
    left = len(report.skips) + len(outcome.failures) - failed
    screen.note(f"{counts}, {failed} cells without a number, {left} left out")
    if outcome.run is not None:
        names = "records.jsonl, table.csv, table.md"
        screen.note(f"wrote {outcome.run}/{names}   next: harness leaderboard build BOARD --add {outcome.run}")
    if outcome.interrupted:
        screen.note("interrupted: finished epochs and shards are kept; run the same command to go on")


def tables(found: Sequence[Row], states: States) -> list[Table]:
    """Make a table for the rows on the same images, and each threat model: an attack a line, a defense a column."""
    return [_table(title, threat, here, states) for title, threat, here in sections(found, states)]


def _analyses(lines: Sequence[AnalysisLine]) -> Table:
    table = Table(title="analyses", title_justify="left")
    shown = ("defense", "analysis", "quantity", "value", "unit", "n")
    for name in shown:
        table.add_column(name, justify="right" if name in ("value", "n") else "left")
    for line in lines:
        table.add_row(*[str({**line, "defense": line["title"], "value": short(line)}[name]) for name in shown])
    return table


def _table(images: str, threat: str, found: Sequence[Row], states: States) -> Table:
    title = f"{images}, {threat}: per cent still correct, 95 % interval"
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
