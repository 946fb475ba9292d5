"""Records from wherever they are kept: a board's folder, a run's folder, or a records.jsonl."""

from __future__ import annotations

from pathlib import Path

from harness.errors import NothingSelected
from harness.results.rows import Row, rows
from harness.results.trainings import trainings
from harness.storage.records import read_compacted
from harness.storage.run_folder import COMPACTED
from harness.storage.schema import Record


def read_records(path: Path) -> list[Record]:
    """Read every record of a folder or file.

    Raises:
        StoreError: where the file is missing or damaged.
    """
    return read_compacted(path / COMPACTED if path.is_dir() else path)


def find_row(name: str, path: Path) -> Row:
    """Find the row of a defense id, or of `ID (seed 1)`; of several trainings the one with the lowest seed.

    Raises:
        NothingSelected: where there is none, or several that differ in network or recipe.
        StoreError: where the records are missing or damaged.
    """
    every = rows(read_records(path))
    found = [row for row in every if row.train_seed and row.name == name]
    found = found or [together[0] for together in trainings([row for row in every if row.defense == name])]
    if not found:
        raise NothingSelected(f"{path} has no row '{name}'; it has: {', '.join(sorted({row.name for row in every}))}")
    if len(found) > 1:
        kinds = "; ".join(f"{row.dataset}, {row.arch}, {row.recipe}, training seed {row.train_seed}" for row in found)
        raise NothingSelected(f"{path} has {len(found)} rows '{name}' ({kinds}): compare boards of one kind")
    return found[0]
