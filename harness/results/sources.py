"""Records from wherever they are kept: a board's folder, a run's folder, or a records.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.errors import NothingSelected
from harness.registry.names import unlabelled
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
    """Find the row of a name as tables print it, of a defense id, or of the part before a label in brackets.

    Of several trainings of a defense the one with the lowest seed.

    Raises:
        NothingSelected: where there is none, or several; the message lists the names.
        StoreError: where the records are missing or damaged.
    """
    every = rows(read_records(path))
    for matches in (
        [row for row in every if row.name == name],
        _firsts([row for row in every if name in (row.title, row.defense, *row.also)]),
        _firsts([row for row in every if name in {unlabelled(known) for known in (row.defense, *row.also)}]),
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            told = "; ".join(row.name for row in matches)
            raise NothingSelected(f"{path} has {len(matches)} rows '{name}': write one of: {told}")
    raise NothingSelected(f"{path} has no row '{name}'; it has: {names(every)}")


def names(every: Iterable[Row]) -> str:
    """List the names of rows, as they can be asked for."""
    return ", ".join(sorted(row.name for row in every))


def _firsts(found: Sequence[Row]) -> list[Row]:
    """Pick the rows with the lowest seed of each group of trainings."""
    return [row for group in trainings(found) for row in group if row.train_seed == group[0].train_seed]
