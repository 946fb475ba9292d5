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
from harness.storage.records import CELL, Record
from harness.witnesses.codec import CODES

SUBJECT_FIELDS = (
    "dataset", "data_sha256", "split", "split_size", "defense", "defense_params", "defense_origin", "defense_revision",
    "arch", "arch_params", "arch_origin", "arch_revision", "recipe", "train_seed", "weights_sha256", "deployed_sha256",
)  # fmt: skip
"""Which network on which images: the same weights deployed with other parameters are another subject."""


@dataclass(slots=True, kw_only=True)
class Breaks:
    """The examples that are right when clean and that some attack of one threat model broke, by index in the split.

    `exempt`: why they have no witnesses, empty where they are to have one.
    """

    subject: Record
    threat: str
    exempt: str = ""
    examples: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Of its witness file, without suffix."""
        return file_name(self.subject, self.threat)

    def __str__(self) -> str:
        head = self.subject
        return f"{titled(head['defense'], head['train_seed'])}, {head['arch']}, {head['recipe']}, {self.threat}"


def subject_of(head: Record) -> Record:
    """The part of a record's identity that says which network on which images."""
    return {name: head[name] for name in SUBJECT_FIELDS}


def file_name(head: Record, threat: str) -> str:
    """Defense, head of the sha256 of the whole subject, threat model, as `pgd_at-0123456789ab-linf-8-255`."""
    return f"{slug(head['defense'])}-{digest(subject_of(head))[:12]}-{slug(threat)}"


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-.")[:60]


def exempt(threat: str, passes: int, random: bool) -> str:
    """Why broken examples have no witnesses; empty where they are to have some."""
    kind, colon, _ = threat.partition(":")
    if kind not in CODES:
        return "its verifier needs evidence beside the image" if colon else "it has no budget"
    if passes > 1:
        return f"each verdict is a majority of {passes} random predictions"
    return "its predictions are random" if random else ""


def breaks(records: Iterable[Record]) -> list[Breaks]:
    """For every subject and threat model of some records what was broken, in the order of the names of their files."""
    found: dict[str, Breaks] = {}
    for record in records:
        head, outcome = record["identity"], record["outcome"]
        if head["kind"] != CELL or head["threat"] == "none":
            continue
        why = exempt(head["threat"], head["passes"], "stochastic" in outcome["flags"])
        one = Breaks(subject=subject_of(head), threat=head["threat"], exempt=why)
        one = found.setdefault(one.name, one)
        one.exempt = one.exempt or why
        one.examples |= broken(record)
    return [found[name] for name in sorted(found)]


def broken(record: Record) -> set[int]:
    """The examples that one record calls right when clean, and broken."""
    head, outcome = record["identity"], record["outcome"]
    examples = _order(head["split_size"], head["split"])[head["start"] : head["stop"]]
    return {int(example) for example in examples[_bits(outcome["clean"]) & _bits(outcome["any"])]}


def _bits(text: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.array(np.frombuffer(text.encode(), dtype=np.uint8) == ord("1"))


@functools.lru_cache(maxsize=8)
def _order(size: int, split: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return permutation(size, split)
