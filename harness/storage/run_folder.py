"""The files of one run.

results/<run_id>/run.json                      the frozen plan; run_id is the start of its sha256, less `answers`
results/<run_id>/environment.json              where and with what it ran
results/<run_id>/records/<xx>/<key>.json       one checksummed, deterministic record for each shard of a cell
results/<run_id>/attempts/<key>.<uuid>.json    when, how long, how it ended
results/<run_id>/refused/<key>.<uuid>.json     shards that failed verification, with the reasons
results/<run_id>/inapplicable/<key>.json       records that will not come, because the attack does not apply
results/<run_id>/witnesses/                    images kept as proof of what was broken
results/<run_id>/records.jsonl                 every record, compacted and sorted
results/<run_id>/table.csv, table.md           the tables that follow from them, and analyses.csv where there are any
results/checkpoints/                           trained weights, shared by the runs beside each other
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from harness.errors import StoreError

COMPACTED = "records.jsonl"


class Answers(TypedDict):
    """What a network of the user's answered to the canaries after a fixed reseed, before its first attack.

    `network`: the sha256 of what its records say of it. `device`: the type of device that its random numbers were drawn
    on, empty where it draws none. `slopes`: of each canary, projections of the gradient of its margin,
    on the type of device `slopes_on`.
    """

    network: str
    device: str
    logits: list[list[float]]
    slopes: NotRequired[list[list[float]]]
    slopes_on: NotRequired[str]


class RunDocument(TypedDict):
    """What `run.json` holds: what a run covers, and the key of every record that it promises.

    `absent`: defenses whose network could not be had, so that the run cannot be complete. `answers`: those of the
    user's own networks, by defense; they are no part of what names the run.
    """

    schema: int
    dataset: str
    data_sha256: str
    n: int
    seed: int
    defenses: list[str]
    absent: list[str]
    attacks: list[str]
    skipped: list[dict[str, str]]
    expected: list[str]
    answers: NotRequired[dict[str, Answers]]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The places of everything in the folder of one run; nothing is read or written but what a method says."""

    path: Path

    @property
    def document(self) -> Path:
        """The file of the frozen plan."""
        return self.path / "run.json"

    @property
    def environment(self) -> Path:
        """The file of the stamp of the machine that ran last."""
        return self.path / "environment.json"

    @property
    def compacted(self) -> Path:
        """The file of every finished record, sorted."""
        return self.path / COMPACTED

    @property
    def temporary(self) -> Path:
        """The folder where record files are written before they are published."""
        return self.path / "tmp"

    @property
    def attempts(self) -> Path:
        """The folder of attempt logs."""
        return self.path / "attempts"

    @property
    def refused(self) -> Path:
        """The folder of shards that failed verification."""
        return self.path / "refused"

    @property
    def inapplicable(self) -> Path:
        """The folder of notes about records that will not come."""
        return self.path / "inapplicable"

    @property
    def witnesses(self) -> Path:
        """The folder of images kept as proof."""
        return self.path / "witnesses"

    @property
    def table_csv(self) -> Path:
        """The file of the tidy table."""
        return self.path / "table.csv"

    @property
    def table_md(self) -> Path:
        """The file of the table for readers."""
        return self.path / "table.md"

    @property
    def analyses_csv(self) -> Path:
        """The file of the measurements besides accuracy."""
        return self.path / "analyses.csv"

    @property
    def checkpoints(self) -> Path:
        """The folder of trained weights, shared by the runs beside each other."""
        return self.path.parent / "checkpoints"

    @property
    def cache(self) -> Path:
        """The folder where attacks and trainings keep files, shared by the runs beside each other."""
        return self.path.parent / "cache"

    def record(self, key: str) -> Path:
        """Name the file of one record."""
        return self.path / "records" / key[:2] / f"{key}.json"

    def in_siblings(self, pattern: str) -> Iterator[Path]:
        """List files of other runs in the same results folder, sorted; `pattern` is their path inside a run."""
        found = self.path.parent.glob(f"*/{pattern}")
        yield from sorted(path for path in set(found) if not path.is_relative_to(self.path))

    def exists(self) -> bool:
        """Tell whether this is the folder of a run."""
        return self.document.exists()

    def promised(self) -> tuple[RunDocument, list[str]]:
        """Read the plan, and the keys of all the records it promises, less those that cannot come.

        Raises:
            StoreError: where the folder is no run.
        """
        try:
            document = cast("RunDocument", json.loads(self.document.read_bytes()))
            gone = {file.stem for file in self.inapplicable.glob("*.json")}
            return document, [key for key in document["expected"] if key not in gone]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self.path} is no run folder of the harness: {self.document} cannot be read ({error})"
            ) from error
