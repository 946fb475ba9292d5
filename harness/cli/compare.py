"""`harness compare A B` and `harness diff OLD NEW`: what differs, and whether that is more than chance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.errors import NothingSelected


def compare(
    first: Annotated[str, typer.Argument(help="A row, as tables call it, or its defense.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    source: Annotated[Path, typer.Option("--in", help="A board's or a run's folder, or a records.jsonl.")] = Path(
        "leaderboards/digits-linf"
    ),
) -> None:
    """Compare two defenses on the same images: difference, interval and exact McNemar test for every attack."""
    from rich.console import Console
    from rich.table import Table

    from harness.results.pairs import pairs
    from harness.results.rows import rows
    from harness.results.sources import find_row, names, read_records

    one, other = find_row(first, source), find_row(second, source)
    if one.key == other.key:
        raise NothingSelected(
            f"'{first}' and '{second}' are one row of {source}, {one.name}: it would be compared with itself. "
            f"It has: {names(rows(read_records(source)))}"
        )
    found = pairs(one, other)
    first, second = one.name, other.name
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = options.PIPED_WIDTH
    table = Table(title=f"{first} against {second}, per cent still correct", title_justify="left")
    for name in (
        "attack",
        "threat model",
        "n",
        first,
        second,
        "difference, 95 %",
        f"only {first}",
        f"only {second}",
        "p",
    ):
        table.add_column(name, justify="left" if name in ("attack", "threat model") else "right")
    for pair in found:
        table.add_row(
            pair.attack, pair.threat, str(pair.n), f"{pair.first:.1f}", f"{pair.second:.1f}",
            f"{pair.difference:+.1f} [{pair.low:+.1f}, {pair.high:+.1f}]", str(pair.only_first), str(pair.only_second),
            f"{pair.p:.2g}",
        )  # fmt: skip
    console.print(table)
    print("p: exact McNemar test on the images that only one of them keeps, for each line by itself.")


def diff(
    old: Annotated[Path, typer.Argument(help="A board's or a run's folder, or a records.jsonl.")],
    new: Annotated[Path, typer.Argument(help="The same, later.")],
) -> None:
    """Print what changed as a Markdown table. Exit code 4 where a cell is gone or left the old interval."""
    from harness.leaderboard.changes import changes, changes_markdown
    from harness.results.rows import rows
    from harness.results.sources import read_records

    found = changes(rows(read_records(old)), rows(read_records(new)))
    print(changes_markdown(found), end="")
    raise typer.Exit(4 if any(change.is_regression for change in found) else 0)
