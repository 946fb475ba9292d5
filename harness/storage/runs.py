"""Runs on disk. The record file is the only proof that a shard is done.

results/<run_id>/run.json                      the frozen plan; run_id is the head of its sha256
results/<run_id>/environment.json              where and with what it ran
results/<run_id>/records/<xx>/<key>.json       one checksummed, deterministic record for each shard of a cell
results/<run_id>/attempts/<key>.<uuid>.json    when, how long, how it ended
results/<run_id>/refused/<key>.<uuid>.json     shards that failed verification, with the reasons
results/<run_id>/inapplicable/<key>.json       records that will not come, because the attack does not apply
results/<run_id>/records.jsonl                 every record, compacted and sorted
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.storage import atomic
from harness.storage.canonical import digest, readable
from harness.storage.records import Record, compact, seal, unseal


class RunStore:
    """One run under a results folder. Records of sibling runs with the same key are reused."""

    def __init__(self, results: Path, document: Record) -> None:
        self.results = results
        self.run_id = digest(document)[:16]
        self.path = results / self.run_id
        self.document = document
        self.damaged: list[str] = []

    def open(self) -> None:
        """Write the plan down, which also proves that the folder can be written, and sweep stale temporary files."""
        atomic.replace(self.path / "run.json", readable(self.document))
        # Every run finds out anew what does not apply.
        for note in (self.path / "inapplicable").glob("*.json"):
            note.unlink(missing_ok=True)
        for folder in ("tmp", "attempts", "refused", "."):
            atomic.sweep(self.path / folder, time.time() - atomic.STALE_SECONDS)

    def note_environment(self, stamp: Record) -> None:
        """Keep the stamp of the machine that ran last."""
        atomic.replace(self.path / "environment.json", readable(stamp))

    def find(self, key: str) -> Record | None:
        """The record of that key: of this run, or copied from a sibling run after its checksum was verified.

        A damaged file is put aside (in a sibling run: left alone), noted in `damaged`, and counts as missing.
        """
        own = self._file(key)
        for path in self._places(key):
            try:
                data = path.read_bytes()
                found = self._checked(path, data)
            except FileNotFoundError:
                continue
            except StoreError as error:
                self.damaged.append(str(error))
                if path == own:
                    self._put_aside(path, data)
                continue
            if path != own:
                atomic.create(own, data, self.path / "tmp")
            return found
        return None

    def commit(self, value: Record) -> None:
        """Publish a finished record."""
        atomic.create(self._file(value["key"]), seal(value), self.path / "tmp")

    def attempt(self, key: str, log: Record) -> None:
        """Log how an attempt at a shard went."""
        self._log("attempts", key, log)

    def refuse(self, key: str, log: Record) -> None:
        """Keep what failed verification, apart from the records."""
        self._log("refused", key, log)

    def inapplicable(self, key: str, log: Record) -> None:
        """Note that a promised record will not come, and why."""
        atomic.replace(self.path / "inapplicable" / f"{key}.json", readable(log))

    def records(self, keys: Iterable[str]) -> Iterator[Record]:
        """The records of this run that exist, among the expected keys."""
        for key in keys:
            path = self._file(key)
            if path.exists():
                yield self._checked(path, path.read_bytes())

    def compact(self, keys: Iterable[str]) -> list[Record]:
        """Write the finished records into one sorted file; return them."""
        found = list(self.records(keys))
        atomic.replace(self.path / "records.jsonl", compact(found))
        return found

    def _file(self, key: str) -> Path:
        return self.path / "records" / key[:2] / f"{key}.json"

    def _places(self, key: str) -> Iterator[Path]:
        """Where the record may be: here, and, looked for only when that is not enough, in sibling runs."""
        yield self._file(key)
        yield from sorted(set(self.results.glob(f"*/records/{key[:2]}/{key}.json")) - {self._file(key)})

    def _checked(self, path: Path, data: bytes) -> Record:
        found = unseal(data, str(path))
        if found["key"] != path.stem:
            raise StoreError(f"{path}: holds the record of another key, {found['key']}")
        return found

    def _put_aside(self, path: Path, data: bytes) -> None:
        aside = self.path / "refused" / f"{path.stem}.{uuid.uuid4().hex}.damaged"
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        # Another process may have put it aside and committed a good one in between: give that back.
        if aside.read_bytes() != data:
            atomic.create(path, aside.read_bytes(), self.path / "tmp")
            aside.unlink()

    def _log(self, folder: str, key: str, log: Record) -> None:
        atomic.replace(self.path / folder / f"{key}.{uuid.uuid4().hex}.json", readable(log))


def lend(results: Path, name: str, finished: Iterable[Record]) -> None:
    """Put finished records into a folder beside the runs, where every run that promises them finds them."""
    folder = results / name
    for value in finished:
        key = str(value["key"])
        atomic.create(folder / "records" / key[:2] / f"{key}.json", seal(value), folder / "tmp")


def expected(run: Path) -> tuple[Record, list[str]]:
    """The plan of a run folder and the keys of all the records it promises, less those that cannot come.

    Raises:
        StoreError: where the folder is no run.
    """
    path = run / "run.json"
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        gone = {file.stem for file in (run / "inapplicable").glob("*.json")}
        return document, [key for key in document["expected"] if key not in gone]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{run} is no run folder of the harness: {path} cannot be read ({error})") from error
