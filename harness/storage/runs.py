"""Writing one run down. The record file is the only proof that a shard is done; `RunFolder` says what lies where."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

from harness.errors import StoreError
from harness.storage import atomic
from harness.storage.canonical import digest, readable
from harness.storage.records import compact, seal, unseal
from harness.storage.run_folder import Answers, RunDocument, RunFolder
from harness.storage.schema import Record

Log = Mapping[str, object]
"""What an attempt log says: when, where, how long, how it ended."""


class RunStore:
    """One run under a results folder. Records of sibling runs with the same key are reused.

    `damaged`: a line for each record file that could not be used.
    """

    def __init__(self, results: Path, document: RunDocument) -> None:
        self.results = results
        self.run_id = digest({name: value for name, value in document.items() if name != "answers"})[:16]
        self.folder = RunFolder(results / self.run_id)
        self.document = document
        self.damaged: list[str] = []

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self.folder.path

    def open(self) -> None:
        """Write the plan down, which also proves that the folder can be written, and sweep stale temporary files."""
        atomic.replace(self.folder.document, readable(self.document))
        # Every run finds out anew what does not apply.
        for note in self.folder.inapplicable.glob("*.json"):
            note.unlink(missing_ok=True)
        for folder in (self.folder.temporary, self.folder.attempts, self.folder.refused, self.path):
            atomic.sweep(folder, time.time() - atomic.STALE_SECONDS)

    def earlier_answers(self) -> Iterator[tuple[Path, str, Answers]]:
        """List what the user's own networks answered in this run before, and in sibling runs: file, defense, answers.

        Files that cannot be read are left out: their records are found damaged, or are not found.
        """
        own = self.folder.document
        for path in [own, *self.folder.in_siblings(own.name)]:
            try:
                found = json.loads(path.read_bytes()).get("answers", {})
                kept = [(str(defense), cast("Answers", dict(answers))) for defense, answers in found.items()]
            except (OSError, ValueError, TypeError, AttributeError):
                continue
            for defense, answers in kept:
                yield path, defense, answers

    def note_environment(self, stamp: Log) -> None:
        """Keep the stamp of the machine that ran last."""
        atomic.replace(self.folder.environment, readable(stamp))

    def find(self, key: str) -> Record | None:
        """Find the record of that key: of this run, or copied from a sibling run after its checksum was verified.

        A damaged file is put aside (in a sibling run: left alone), noted in `damaged`, and counts as missing.
        """
        own = self.folder.record(key)
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
                atomic.create(own, data, self.folder.temporary)
            return found
        return None

    def commit(self, record: Record) -> None:
        """Publish a finished record.

        Raises:
            StoreError: where another record of this key is there, or the system refuses to write.
        """
        atomic.create(self.folder.record(record["key"]), seal(record), self.folder.temporary)

    def attempt(self, key: str, log: Log) -> None:
        """Log how an attempt at a shard went."""
        self._log(self.folder.attempts, key, log)

    def refuse(self, key: str, log: Log) -> None:
        """Log a shard that failed verification, apart from the records."""
        self._log(self.folder.refused, key, log)

    def inapplicable(self, key: str, log: Log) -> None:
        """Note that a promised record will not come, and why."""
        atomic.replace(self.folder.inapplicable / f"{key}.json", readable(log))

    def records(self, keys: Iterable[str]) -> Iterator[Record]:
        """Read the records of this run that exist, among the expected keys.

        Raises:
            StoreError: where one is damaged.
        """
        for key in keys:
            path = self.folder.record(key)
            if path.exists():
                yield self._checked(path, path.read_bytes())

    def compact(self, keys: Iterable[str]) -> list[Record]:
        """Write the finished records into one sorted file; return them in the order of `keys`."""
        found = list(self.records(keys))
        atomic.replace(self.folder.compacted, compact(found))
        return found

    def _places(self, key: str) -> Iterator[Path]:
        """List where the record may be: here, and, looked for only when that is not enough, in sibling runs."""
        own = self.folder.record(key)
        yield own
        yield from self.folder.in_siblings(str(own.relative_to(self.path)))

    def _checked(self, path: Path, data: bytes) -> Record:
        found = unseal(data, str(path))
        if found["key"] != path.stem:
            raise StoreError(f"{path}: holds the record of another key, {found['key']}")
        return found

    def _put_aside(self, path: Path, data: bytes) -> None:
        aside = self.folder.refused / f"{path.stem}.{uuid.uuid4().hex}.damaged"
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        # Another process may have put it aside and committed a good one in between: give that back.
        if aside.read_bytes() != data:
            atomic.create(path, aside.read_bytes(), self.folder.temporary)
            aside.unlink()

    def _log(self, folder: Path, key: str, log: Log) -> None:
        atomic.replace(folder / f"{key}.{uuid.uuid4().hex}.json", readable(log))


def lend(results: Path, name: str, finished: Iterable[Record]) -> None:
    """Put finished records into a folder beside the runs, where every run that promises them finds them."""
    folder = RunFolder(results / name)
    for record in finished:
        atomic.create(folder.record(record["key"]), seal(record), folder.temporary)
