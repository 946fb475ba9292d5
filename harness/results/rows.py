"""Cells -> rows: every subject with its attacks, worst cases derived image by image, and its analyses."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import cast

from harness.registry.names import titled
from harness.results.cells import CellKey, CellResult, join, newest
from harness.results.naming import source_of, tell_apart
from harness.storage.schema import (
    ROW_FIELDS,
    UNTRAINED,
    AnalysisRecord,
    CellRecord,
    Record,
    SubjectIdentity,
    chosen,
    is_cell,
)
from harness.types import Quantity


@dataclass(slots=True, kw_only=True)
class Row:
    """One subject with all its cells, keyed by (attack, threat, seed), and its analyses by name.

    Cells are sorted by threat model, then cheapest first. `analysis_images`: how many test images each analysis used.
    `source`: see `source_of`. `also`: what else records of the same network call it. `distinction`: what follows the
    name where others have that name too. `probes`: what was measured of a network of which no cell tells, as every
    attack on it failed.
    """

    dataset: str
    data_sha256: str
    defense: str
    arch: str
    recipe: str
    train_seed: int
    weights_sha256: str
    defense_origin: str = ""
    source: str = ""
    also: tuple[str, ...] = ()
    distinction: str = ""
    mandatory: tuple[str, ...] = ()
    gated: bool = False
    cells: dict[CellKey, CellResult] = field(default_factory=dict)
    analyses: dict[str, dict[str, Quantity]] = field(default_factory=dict)
    analysis_images: dict[str, int] = field(default_factory=dict)
    probes: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The defense, with the seed of its training unless that is 0, and what tells it from others of that name."""
        return titled(self.defense, self.train_seed) + self.distinction

    @property
    def title(self) -> str:
        """The name without the seed, for tables that have a place for the seed."""
        return self.defense + self.distinction

    @property
    def key(self) -> tuple[object, ...]:
        """What no two rows share: images, network and training, by hashes; display names decide nothing.

        A plugin's defense is known by its origin and id, one's own network by the sha256 of its source.
        """
        return (*self._who, self.train_seed, self.weights_sha256)

    @property
    def subject(self) -> tuple[object, ...]:
        """What the trainings of one defense share: all but seed and weights.

        Weights that were given, or come with a network, are no training: other weights are another subject.
        """
        return (*self._who, self.weights_sha256 if self.recipe in UNTRAINED else "")

    @property
    def _who(self) -> tuple[str, ...]:
        who = ("", self.source) if self.source else (self.defense, self.defense_origin)
        return (self.data_sha256, *who, self.arch, self.recipe)

    @property
    def clean(self) -> str:
        """A bit for each image: right when clean, over as many images as any cell has; empty without a cell."""
        return max((cell.clean for cell in self.cells.values()), key=len, default="")

    def threats(self) -> list[str]:
        """List the threat models that its attacks ran under."""
        return sorted({cell.threat for cell in self.cells.values()} - {"none"})

    def ranked_threats(self) -> list[str]:
        """List the threat models with a budget and valid images: those with a worst case and a rank."""
        return sorted({cell.threat for cell in self.cells.values() if cell.ranked} - {"none"})

    def worst(self, threat: str, knowledge: str = "", among: Collection[CellKey] | None = None) -> str:
        """Derive the worst case over attacks of one threat model: a bit for each common image, 1 where it stood.

        `knowledge`: only attackers who know so much count. `among`: only these cells. Empty where no cell is left.
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
    """Join records into rows, sorted by dataset, then by worst case (best first), then by name.

    Records are joined by `Row.key`, so that two datasets or two networks of one name stay apart, and the records of one
    network under two names are one row.

    Raises:
        StoreError: where two records of one cell differ in more than their revisions.
    """
    found: dict[tuple[object, ...], Row] = {}
    cells: dict[tuple[object, ...], dict[CellKey, list[CellRecord]]] = {}
    analyses: dict[tuple[object, ...], list[AnalysisRecord]] = {}
    for record in records:
        row = _row(record["identity"])
        known = found.setdefault(row.key, row)
        known.also += (row.defense,)
        known.dataset = min(known.dataset, row.dataset)
        if is_cell(record):
            identity = record["identity"]
            cell = (identity["attack"], identity["threat"], identity["seed"])
            cells.setdefault(row.key, {}).setdefault(cell, []).append(record)
        else:
            analyses.setdefault(row.key, []).append(cast("AnalysisRecord", record))
    for key, row in found.items():
        parted = {cell: join(newest(parts)) for cell, parts in cells.get(key, {}).items()}
        joined = {cell: result for cell, result in parted.items() if result is not None}
        row.cells = dict(sorted(joined.items(), key=lambda item: (item[1].threat, sum(item[1].cost), item[0])))
        # The highest revision counts, then the most images.
        ordered = sorted(analyses.get(key, []), key=lambda r: (r["identity"]["analysis_revision"], r["identity"]["n"]))
        row.analyses = _newest_analyses(ordered)
        row.analysis_images = {record["identity"]["analysis"]: record["identity"]["n"] for record in ordered}
        row.defense, *others = sorted(set(row.also))
        row.also = tuple(others)
    kept = [row for row in found.values() if row.cells or row.analyses]
    kept.sort(
        key=lambda row: (row.dataset, row.data_sha256, -_headline(row), row.defense, row.weights_sha256, row.key[1:])
    )
    tell_apart(kept)
    return kept


def _row(identity: SubjectIdentity) -> Row:
    return Row(
        **chosen(identity, ROW_FIELDS), defense_origin=identity["defense_origin"], source=source_of(identity),
        mandatory=tuple(identity["mandatory"]), gated=identity["gated"],
    )  # fmt: skip


def _headline(row: Row) -> float:
    shares = [row.worst(threat).count("1") / len(row.worst(threat)) for threat in row.ranked_threats()]
    return min(shares, default=row.clean.count("1") / max(1, len(row.clean)))


def _newest_analyses(ordered: list[AnalysisRecord]) -> dict[str, dict[str, Quantity]]:
    """Pick the quantities of each analysis id; of several records the last counts."""
    return {
        record["identity"]["analysis"]: {
            name: Quantity(**quantity) for name, quantity in record["outcome"]["quantities"].items()
        }
        for record in ordered
    }


@functools.lru_cache(maxsize=1024)
def _every(together: tuple[str, ...]) -> str:
    """Join strings of bits image by image, over their common images: 1 where all of them are 1."""
    return "".join("0" if "0" in bits else "1" for bits in zip(*together, strict=False))
