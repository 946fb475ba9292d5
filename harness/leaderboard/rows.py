"""Records -> rows: shards joined, readings and worst cases derived image by image."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from harness.canonical import digest
from harness.errors import StoreError
from harness.records import ANALYSIS, Record
from harness.types import Quantity

ROW_FIELDS = ("dataset", "data_sha256", "defense", "arch", "recipe", "train_seed", "weights_sha256")
"""What a table shows of a subject."""
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


@dataclass(slots=True, kw_only=True)
class Row:
    """One subject with all its cells, keyed by (attack, threat, seed), cheapest first, and its analyses by name."""

    dataset: str
    data_sha256: str
    defense: str
    arch: str
    recipe: str
    train_seed: int
    weights_sha256: str
    mandatory: tuple[str, ...] = ()
    gated: bool = False
    cells: dict[CellKey, CellResult] = field(default_factory=dict)
    analyses: dict[str, dict[str, Quantity]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The defense, with the seed of its training unless that is 0."""
        return f"{self.defense} (seed {self.train_seed})" if self.train_seed else self.defense

    @property
    def clean(self) -> str:
        """Right on the clean image, over as many images as any cell has; empty for a row without a cell."""
        return max((cell.clean for cell in self.cells.values()), key=len, default="")

    def threats(self) -> list[str]:
        """The threat models its attacks ran under."""
        return sorted({cell.threat for cell in self.cells.values()} - {"none"})

    def ranked_threats(self) -> list[str]:
        """Those with a budget and with valid images: what a worst case is told and a row is ranked by."""
        return sorted({cell.threat for cell in self.cells.values() if cell.ranked} - {"none"})

    def worst(self, threat: str, knowledge: str = "", among: Collection[CellKey] | None = None) -> str:
        """Image by image, whether it stood against every attack of one threat model, over their common images.

        `knowledge`: only attackers who know so much count; empty where there was none. `among`: only these cells.
        """
        together = [
            cell.robust
            for key, cell in self.cells.items()
            if cell.threat == threat and knowledge in ("", cell.knowledge) and (among is None or key in among)
        ]
        if not together:
            return ""
        return _every(tuple(together))


def rows(records: Iterable[Record]) -> list[Row]:
    """Join records into rows, sorted by worst case (best first), then by name.

    Raises:
        StoreError: where two records of one cell differ in more than their revisions.
    """
    grouped: dict[tuple[Any, ...], dict[tuple[str, str, int], list[Record]]] = {}
    analyses: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        head = record["identity"]
        subject = tuple(head[name] for name in ROW_FIELDS)
        if head["kind"] == ANALYSIS:
            analyses.setdefault(subject, []).append(record)
            continue
        cell = (head["attack"], head["threat"], head["seed"])
        grouped.setdefault(subject, {}).setdefault(cell, []).append(record)
    found = []
    for subject in {**grouped, **analyses}:
        cells, measured = grouped.get(subject, {}), analyses.get(subject, [])
        row = Row(**dict(zip(ROW_FIELDS, subject, strict=True)))
        joined = {cell: result for cell, parts in cells.items() if (result := _join(_newest(parts))) is not None}
        row.cells = dict(sorted(joined.items(), key=lambda item: (item[1].threat, sum(item[1].cost), item[0])))
        head = [*(parts[0] for parts in cells.values()), *measured][0]["identity"]
        row.mandatory, row.gated = tuple(head["mandatory"]), head["gated"]
        row.analyses = _newest_analyses(measured)
        if row.cells or row.analyses:
            found.append(row)
    return sorted(found, key=lambda row: (row.dataset, -_headline(row), row.defense, row.weights_sha256))


def _headline(row: Row) -> float:
    shares = [row.worst(threat).count("1") / len(row.worst(threat)) for threat in row.ranked_threats()]
    return min(shares, default=row.clean.count("1") / max(1, len(row.clean)))


def _newest_analyses(measured: list[Record]) -> dict[str, dict[str, Quantity]]:
    """Analysis id -> its quantities; of several records the highest revision counts, then the most images."""
    ordered = sorted(measured, key=lambda r: (r["identity"]["analysis_revision"], r["identity"]["n"]))
    return {
        record["identity"]["analysis"]: {
            name: Quantity(**quantity) for name, quantity in record["outcome"]["quantities"].items()
        }
        for record in ordered
    }


def _newest(parts: list[Record]) -> list[Record]:
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


def _join(parts: list[Record]) -> CellResult | None:
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


@functools.lru_cache(maxsize=1024)
def _every(together: tuple[str, ...]) -> str:
    """Whether all of several rows of bits are 1, over their common images."""
    return "".join("0" if "0" in bits else "1" for bits in zip(*together, strict=False))


# Asked for image by image and flag by flag: the same two strings come back again and again.
@functools.lru_cache(maxsize=4096)
def _both(clean: str, broken: str) -> str:
    return "".join("1" if right == "1" and hit == "0" else "0" for right, hit in zip(clean, broken, strict=True))
