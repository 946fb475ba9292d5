"""Where a run keeps its witnesses.

results/<run_id>/witnesses/<name>/<key>.safetensors   what one record broke first, in the order of the run
results/<run_id>/witnesses/<name>.safetensors         all of one subject and threat model, merged at the end

The file of a record is written before the record, so that a finished shard has its witnesses whatever is killed when.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.errors import StoreError
from harness.storage import atomic
from harness.storage.run_folder import RunFolder
from harness.storage.schema import CellIdentity, CellRecord, Record, cell_records, network_of
from harness.witnesses.codec import Witness, Witnesses, from_bytes, to_bytes
from harness.witnesses.coverage import breaks, broken, file_name

WANTED = 0.99
"""The share of broken examples that is to have a witness."""


class WitnessStore:
    """The witnesses of one run under a results folder; those of sibling runs' records are copied with them.

    An example that has a witness gets no other one. `damaged`: a line for each file that cannot be used.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.damaged: list[str] = []
        self._covered: dict[str, set[int]] = {}
        for folder in run.witnesses.glob("*/"):
            atomic.sweep(folder, time.time() - atomic.STALE_SECONDS)

    def lacking(self, identity: CellIdentity, examples: Sequence[int]) -> np.ndarray:
        """Tell which examples (n,) have no witness from the records before, in the order of the run."""
        covered = self._covered.get(file_name(identity, identity["threat"]), set())
        return np.array([example not in covered for example in examples], dtype=bool)

    def reuse(self, key: str, identity: CellIdentity) -> None:
        """Count what was kept for a record that is there already as covered; from a sibling run it is copied."""
        self._cover(identity, self._part(key, identity))

    def keep(self, key: str, identity: CellIdentity, codes: Mapping[int, np.ndarray]) -> None:
        """Write down what a record breaks first, before the record itself; example -> code."""
        if codes:
            found = {example: Witness(identity["attack"], code) for example, code in codes.items()}
            path = self._path(key, identity)
            # What a killed attempt left stays.
            found |= self._read(path, path.parent.name) if path.exists() else {}
            value = Witnesses(network=network_of(identity), threat=identity["threat"], found=found)
            atomic.replace(path, to_bytes(value))
            self._cover(identity, found)

    def merge(self, records: Iterable[Record]) -> list[str]:
        """Write one file for each subject and threat model, the first witness of each example in it.

        `records`: in the order of the run. Returns a line for each file that lacks more than a hundredth of its
        witnesses.
        """
        groups: dict[str, list[CellRecord]] = {}
        for record in cell_records(records):
            groups.setdefault(file_name(record["identity"], record["identity"]["threat"]), []).append(record)
        lines = []
        for one in breaks(record for group in groups.values() for record in group):
            if one.exempt:
                continue
            found: dict[int, Witness] = {}
            for record in groups[one.name]:
                new = self._part(record["key"], record["identity"])
                found = {example: new[example] for example in new.keys() & broken(record)} | found
            for pattern in (f"{one.name}.safetensors", f"{one.name}/*.safetensors"):
                # Records that were taken over: their run may have kept these examples with another record.
                for path in self._siblings(pattern) if one.examples - found.keys() else ():
                    new = self._read(path, one.name)
                    found = {example: new[example] for example in new.keys() & one.examples} | found
            if found:
                value = Witnesses(network=one.network, threat=one.threat, found=found)
                atomic.replace(self.run.witnesses / f"{one.name}.safetensors", to_bytes(value))
            if len(found) < WANTED * len(one.examples):
                lines.append(
                    f"{one}: {len(found)} of {len(one.examples)} broken examples have a witness. An image has none "
                    "whose margin is no more than the rounding of its logits, as where all logits are huge; nor have "
                    "records taken over from a run without witnesses, which another -o computes again"
                )
        return lines

    def _cover(self, identity: CellIdentity, found: Iterable[int]) -> None:
        self._covered.setdefault(file_name(identity, identity["threat"]), set()).update(found)

    def _path(self, key: str, identity: CellIdentity) -> Path:
        return self.run.witnesses / file_name(identity, identity["threat"]) / f"{key}.safetensors"

    def _part(self, key: str, identity: CellIdentity) -> dict[int, Witness]:
        """Read what was kept for a record, here or in the first sibling run that has it."""
        path = self._path(key, identity)
        if path.exists():
            return self._read(path, path.parent.name)
        for other in self._siblings(f"{path.parent.name}/{path.name}"):
            if found := self._read(other, path.parent.name):
                atomic.replace(path, other.read_bytes())
                return found
        return {}

    def _siblings(self, name: str) -> Iterator[Path]:
        yield from self.run.in_siblings(f"{self.run.witnesses.name}/{name}")

    def _read(self, path: Path, name: str) -> dict[int, Witness]:
        try:
            value = from_bytes(path.read_bytes(), str(path))
            if file_name(value.network, value.threat) != name:
                raise StoreError(f"{path}: holds the witnesses of another network or threat model")
        except StoreError as error:
            if str(error) not in self.damaged:
                self.damaged.append(str(error))
            return {}
        return value.found
