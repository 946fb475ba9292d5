"""Plans for what a board lacks, with what it has put where the runs find it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import NothingSelected, UsageError
from harness.planning.plan import Plan, plan
from harness.registry.registry import Registry

BOARDS = Path("leaderboards")


class NothingLacking(NothingSelected):
    """Raised where everything that a board asks for is measured: no mistake, so the command says so and ends with 0."""

    exit_code = 0


def board_folder(board: str | Path) -> Path:
    """Find the folder of a board that is given as a folder, or by its name in `leaderboards/`."""
    return Path(board) if Path(board).is_dir() else BOARDS / board


def lacking(board: str | Path, datasets: Sequence[str], output: Path, registry: Registry) -> list[Plan]:
    """Plan what a board lacks, of these datasets or of all, and put its records where the runs find them.

    Raises:
        UsageError: where there is no such board.
        NothingLacking: where every cell is measured.
    """
    from harness.leaderboard import definition as definitions
    from harness.leaderboard.missing import lacking as lacking_of
    from harness.leaderboard.missing import requests
    from harness.results.rows import rows
    from harness.results.sources import read_records
    from harness.storage import runs

    folder = board_folder(board)
    definition = definitions.read(folder)
    if definition is None:
        raise UsageError(f"--board {board}: {folder} has no {definitions.FILE}")
    records = read_records(folder)
    measured = rows(records)
    planned = [lacking_of(plan(one, registry), measured) for one in requests(definition, measured, datasets)]
    found = [one for one in planned if one.subjects]
    if not found:
        of = f" on {', '.join(datasets)}" if datasets else ""
        raise NothingLacking(f"nothing to do: every cell of {folder}{of} is measured")
    runs.lend(output, f"board-{folder.name}", records)
    return found
