"""Where the runs of a board were made: one stamp for each run, kept beside the records and told below the table.

leaderboards/<board>/environments.json    run -> harness, torch, python, machine, device
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from harness.errors import BoardMismatch, StoreError
from harness.storage import atomic
from harness.storage.canonical import readable
from harness.storage.run_folder import RunFolder

FILE = "environments.json"
TOLD = ("harness", "torch", "python", "machine", "device")


def collect(board: Path, runs: Iterable[Path]) -> None:
    """Add the stamps of runs that gave records to a board; a run without one adds none.

    Raises:
        StoreError: for a stamp that cannot be read.
    """
    found, added = _read(board), {}
    for run in runs:
        path = RunFolder(run).environment
        if path.exists():
            try:
                stamp = json.loads(path.read_bytes())
                added[run.name] = {name: str(stamp[name]) for name in TOLD}
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(f"{path}: damaged ({error}); run its command again") from error
    if added:
        atomic.replace(board / FILE, readable({"schema": 1, "runs": found | added}))


def footer(board: Path) -> str:
    """Write what table.md says of the environments, a line for each; empty where no run is stamped.

    Raises:
        BoardMismatch: for a file that cannot be read.
    """
    runs: dict[str, list[str]] = {}
    for run, stamp in sorted(_read(board).items()):
        words = "harness {harness}, torch {torch}, Python {python}, {machine}, {device}".format(**stamp)
        runs.setdefault(words, []).append(run)
    lines = [f"Measured with {words}: runs {', '.join(named)}." for words, named in sorted(runs.items())]
    return "\n".join(["", *lines]) + "\n" if lines else ""


def _read(board: Path) -> dict[str, dict[str, str]]:
    path = board / FILE
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())["runs"]
        return {str(run): {name: str(stamp[name]) for name in TOLD} for run, stamp in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BoardMismatch(f"{path}: damaged ({error}); build the board from its runs again") from error
