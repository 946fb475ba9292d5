"""`harness leaderboard`: tables from committed records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.errors import UnknownName

FORMATS = ("csv", "md", "latex", "robustbench")
app = typer.Typer(help="Build and check boards from records alone.", no_args_is_help=True, rich_markup_mode=None)

Board = Annotated[Path, typer.Argument(help="The board's folder, such as leaderboards/digits-linf.")]


@app.command("build")
def build(
    board: Board,
    add: Annotated[
        list[Path], typer.Option("--add", help="A finished run folder whose records join; repeatable.")
    ] = [],  # noqa: B006
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Keep the runs' witnesses and small weights too, for harness verify.")
    ] = False,
) -> None:
    """Write records.jsonl, table.csv and table.md of a board."""
    from harness.leaderboard import board as boards
    from harness.leaderboard.artifacts import left_out

    for path in boards.build(board, add, evidence):
        print(f"wrote {path}")
    for name, why in left_out(board).items():
        print(f"left out {name}: {why}")


@app.command("check")
def check(
    boards: Annotated[list[Path], typer.Argument(help="Board folders; every one under leaderboards/ by default.")] = [],  # noqa: B006
) -> None:
    """Fail with exit code 4 where a committed table does not follow from its records, or nothing measures a cell.

    A board may say why no command ever measures a cell; such cells are named with the reason.
    """
    from harness.errors import BoardMismatch, NothingSelected
    from harness.leaderboard.board import RECORDS, check
    from harness.leaderboard.definition import read
    from harness.leaderboard.measurable import hindrances
    from harness.registry.discovery import discover
    from harness.results.rows import rows
    from harness.storage.records import read_compacted

    found = boards or sorted(path.parent for path in Path("leaderboards").glob(f"*/{RECORDS}"))
    if not found:
        raise NothingSelected("there is no leaderboards/ here with boards in it: name their folders")
    wrong, registry = [], discover()
    for path in found:
        try:
            print(f"{path}: tables follow from {check(path)} records")
        except BoardMismatch as error:
            wrong.append(str(error))
        definition = read(path)
        measured = rows(read_compacted(path / RECORDS))
        for one in hindrances(definition, registry, measured) if definition else ():
            told = f"{path}: no command measures {one.in_words}"
            if one.stated:
                print(told)
            else:
                wrong.append(f'{told}. Mend it, or say why never: unmeasurable = "..."')
    if wrong:
        raise BoardMismatch("\n".join(wrong))


@app.command("export")
def export(
    board: Board,
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")] = "md",
) -> None:
    """Print a board in another format, from its records."""
    from harness.leaderboard.board import export

    if form not in FORMATS:
        raise UnknownName("format", form, FORMATS)
    print(export(board, form), end="")
