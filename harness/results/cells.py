"""Records -> cells: the newest of each kind, shards joined, readings derived image by image."""

from __future__ import annotations

import functools
import math
import statistics
from dataclasses import dataclass
from typing import Any

from harness.errors import StoreError
from harness.storage.canonical import digest
from harness.storage.records import Record

VARIANT_FIELDS = (
    "judge", "defense_revision", "attack_revision", "arch_revision", "attack_origin", "defense_origin", "arch_origin",
    "params", "defense_params", "arch_params", "deployed_sha256", "minimal", "on", "knowledge", "passes", "supplies",
    "ranked", "precision",
)  # fmt: skip
"""What else decides a result. Within one cell these may only differ by revision, and the highest counts."""
HEAD_FIELDS = (
    "attack", "threat", "params", "seed", "on", "knowledge", "passes", "minimal", "ranked", "attack_revision",
    "split_size",
)  # fmt: skip
"""What a cell takes over from the identity of its records."""
COUNTED = ("false_claims", "out_of_range")
"""Flags that count images, and so add up over shards; the others are true of the whole cell."""
CellKey = tuple[str, str, int]
"""Attack, threat model, seed."""
REVISIONS = 4
"""How many of the variant fields, from the front, are revisions."""


@dataclass(slots=True, kw_only=True)
class CellResult:
    """One attack on one row: bits of all its images in the fixed order, and what it cost.

    `records`: the head of a sha256 over every record that it rests on, so that tables show any digit that changes.
    """

    attack: str
    threat: str
    params: dict[str, Any]
    seed: int
    on: str
    knowledge: str
    passes: int
    minimal: bool
    ranked: bool
    attack_revision: int
    split_size: int
    clean: str
    raw: str
    last: str
    any: str
    forwards: int
    backwards: int
    flags: dict[str, float]
    probes: dict[str, float]
    records: str
    distances: list[float] | None = None

    @property
    def n(self) -> int:
        """How many images."""
        return len(self.clean)

    @property
    def robust(self) -> str:
        """Right on the clean image, and not broken by any reported image inside the threat model."""
        return _both(self.clean, self.any)

    @property
    def robust_last(self) -> str:
        """Right on the clean image, and not broken by the final image: the reading of the papers' tables."""
        return _both(self.clean, self.last)

    @property
    def median_distance(self) -> float | None:
        """The median distance of the returned images, over those that are right when clean; None where none is stored.

        For an attack that seeks the smallest perturbation, an image it could not break is infinitely far.
        """
        if self.distances is None:
            return None
        far = [
            math.inf if self.minimal and raw == "1" else distance
            for distance, raw, clean in zip(self.distances, self.raw, self.clean, strict=True)
            if clean == "1"
        ]
        return statistics.median(far) if far else None

    @property
    def cost(self) -> tuple[float, float]:
        """Forwards and backwards for each image."""
        return self.forwards / self.n, self.backwards / self.n


def newest(parts: list[Record]) -> list[Record]:
    """The records of the highest revisions."""
    variants: dict[str, list[Record]] = {}
    for record in parts:
        variants.setdefault(digest([record["identity"][name] for name in VARIANT_FIELDS]), []).append(record)
    ranked = sorted(variants.values(), key=_revisions)
    if len(ranked) > 1 and _revisions(ranked[-1]) == _revisions(ranked[-2]):
        first, second = (found[0]["identity"] for found in ranked[-2:])
        name = next(name for name in VARIANT_FIELDS if first[name] != second[name])
        raise StoreError(
            f"two kinds of records of {first['attack']} on {first['defense']}: {name} is {first[name]} and "
            f"{second[name]}. Keep them on separate boards"
        )
    return ranked[-1]


def _revisions(parts: list[Record]) -> list[int]:
    return [parts[0]["identity"][name] for name in VARIANT_FIELDS[:REVISIONS]]


def join(parts: list[Record]) -> CellResult | None:
    """Put shards end to end from position 0, taking the longest where a limited run overlaps a full one."""
    chosen: list[Record] = []
    position = 0
    while True:
        here = [record for record in parts if record["identity"]["start"] == position]
        if not here:
            break
        chosen.append(max(here, key=lambda record: int(record["identity"]["stop"])))
        position = chosen[-1]["identity"]["stop"]
    if not chosen:
        return None
    head = chosen[0]["identity"]
    outcomes = [record["outcome"] for record in chosen]
    flags: dict[str, float] = {}
    for outcome in outcomes:
        for name, value in outcome["flags"].items():
            flags[name] = flags.get(name, 0) + value if name in COUNTED else max(flags.get(name, 0), value)

    def joined(bits: str) -> str:
        return "".join(outcome[bits] for outcome in outcomes)

    return CellResult(
        **{name: head[name] for name in HEAD_FIELDS},
        clean=joined("clean"),
        raw=joined("raw"),
        last=joined("last"),
        any=joined("any"),
        forwards=sum(outcome["forwards"] for outcome in outcomes),
        backwards=sum(outcome["backwards"] for outcome in outcomes),
        flags=flags,
        probes=outcomes[0].get("probes", {}),
        records=digest(chosen)[:12],
        distances=(
            [distance for outcome in outcomes for distance in outcome["distances"]]
            if all("distances" in outcome for outcome in outcomes)
            else None
        ),
    )


# Asked for image by image and flag by flag: the same two strings come back again and again.
@functools.lru_cache(maxsize=4096)
def _both(clean: str, broken: str) -> str:
    return "".join("1" if right == "1" and hit == "0" else "0" for right, hit in zip(clean, broken, strict=True))
