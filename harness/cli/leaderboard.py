"""`harness leaderboard`: tables from committed records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Build and check boards from records alone.", no_args_is_help=True, rich_markup_mode=None)

Board = Annotated[Path, typer.Argument(help="The board's folder, such as leaderboards/digits.")]


@app.command("build")
def build(
    board: Board,
    add: Annotated[
        list[Path], typer.Option("--add", help="A finished run folder whose records join; repeatable.")
    ] = [],  # noqa: B006
) -> None:
    """Write records.jsonl, table.csv and table.md of a board."""
    from harness.leaderboard import board as boards

    for path in boards.build(board, add):
        print(f"wrote {path}")


@app.command("check")
def check(boards: Annotated[list[Path], typer.Argument(help="Board folders.")]) -> None:
    """Fail with exit code 4 where a committed table does not follow from its records."""
    from harness.leaderboard.board import check

    for path in boards:
        print(f"{path}: tables follow from {check(path)} records")
