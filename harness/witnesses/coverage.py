"""What records say was broken: the examples of each subject and threat model, and whether these have witnesses."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.data.seeds import permutation
from harness.registry.names import titled
from harness.storage.canonical import digest
from harness.storage.schema import NETWORK_FIELDS, CellRecord, NetworkIdentity, Record, cell_records, chosen, network_of
from harness.witnesses.codec import CODES


@dataclass(slots=True, kw_only=True)
class Breaks:
    """The examples that are right when clean and that some attack of one threat model broke, by index in the split.

    `exempt`: why they have no witnesses, empty where they are to have one.
    """

    network: NetworkIdentity
    threat: str
    exempt: str = ""
    examples: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The name of its witness file, without suffix."""
        return file_name(self.network, self.threat)

    def __str__(self) -> str:
        network = self.network
        name = titled(network["defense"], network["train_seed"])
        return f"{name}, {network['arch']}, {network['recipe']}, {self.threat}"


def file_name(identity: NetworkIdentity, threat: str) -> str:
    """Name a file of witnesses: defense, start of the sha256 over the network's identity, threat model.

    For example `pgd_at-0123456789ab-linf-8-255`. The identity of a cell will do: what says more than the network is
    left out.
    """
    network = chosen(identity, NETWORK_FIELDS)
    return f"{slug(identity['defense'])}-{digest(network)[:12]}-{slug(threat)}"


def slug(text: str) -> str:
    """Make a text fit to be a part of a file's name."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-.")[:60]


def exempt(threat: str, votes: int, random: bool) -> str:
    """Say why broken examples have no witnesses; empty where they are to have some."""
    kind, colon, _ = threat.partition(":")
    if kind not in CODES:
        return "its verifier needs evidence beside the image" if colon else "it has no budget"
    if votes > 1:
        return f"each verdict is a majority of {votes} random predictions"
    return "its predictions are random" if random else ""


def breaks(records: Iterable[Record]) -> list[Breaks]:
    """Collect for every network and threat model what was broken, in the order of the names of their files."""
    found: dict[str, Breaks] = {}
    for record in cell_records(records):
        identity = record["identity"]
        if identity["threat"] == "none":
            continue
        why = exempt(identity["threat"], identity["passes"], "stochastic" in record["outcome"]["flags"])
        one = Breaks(network=network_of(identity), threat=identity["threat"], exempt=why)
        one = found.setdefault(one.name, one)
        one.exempt = one.exempt or why
        one.examples |= broken(record)
    return [found[name] for name in sorted(found)]


def broken(record: CellRecord) -> set[int]:
    """Collect the examples that one record calls right when clean, and broken."""
    identity, observed = record["identity"], record["outcome"]
    examples = _order(identity["split_size"], identity["split"])[identity["start"] : identity["stop"]]
    return {int(example) for example in examples[_bits(observed["clean"]) & _bits(observed["any"])]}


def _bits(text: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.array(np.frombuffer(text.encode(), dtype=np.uint8) == ord("1"))


@functools.lru_cache(maxsize=8)
def _order(size: int, split: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return permutation(size, split)
