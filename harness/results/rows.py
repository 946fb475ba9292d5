"""Cells -> rows: every subject with its attacks, worst cases derived image by image, and its analyses."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from harness.registry.names import titled
from harness.results.cells import CellKey, CellResult, join, newest
from harness.storage.schema import ROW_FIELDS, AnalysisRecord, CellRecord, Record, SubjectIdentity, chosen, is_cell
from harness.types import Quantity


@dataclass(slots=True, kw_only=True)
class Row:
    """One subject with all its cells, keyed by (attack, threat, seed), and its analyses by name.

    Cells are sorted by threat model, then cheapest first. `probes`: what was measured of a network of which no cell
    tells, as every attack on it failed.
    """

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
    probes: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The defense, with the seed of its training unless that is 0."""
        return titled(self.defense, self.train_seed)

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

    Raises:
        StoreError: where two records of one cell differ in more than their revisions.
    """
    grouped: dict[tuple[Any, ...], dict[CellKey, list[CellRecord]]] = {}
    analyses: dict[tuple[Any, ...], list[AnalysisRecord]] = {}
    for record in records:
        subject = tuple(chosen(record["identity"], ROW_FIELDS).values())
        if is_cell(record):
            identity = record["identity"]
            cell = (identity["attack"], identity["threat"], identity["seed"])
            grouped.setdefault(subject, {}).setdefault(cell, []).append(record)
        else:
            analyses.setdefault(subject, []).append(cast("AnalysisRecord", record))
    found = []
    for subject in {**grouped, **analyses}:
        cells, measured = grouped.get(subject, {}), analyses.get(subject, [])
        row = Row(**dict(zip(ROW_FIELDS, subject, strict=True)))
        joined = {cell: result for cell, parts in cells.items() if (result := join(newest(parts))) is not None}
        row.cells = dict(sorted(joined.items(), key=lambda item: (item[1].threat, sum(item[1].cost), item[0])))
        first: SubjectIdentity = [*(parts[0] for parts in cells.values()), *measured][0]["identity"]
        row.mandatory, row.gated = tuple(first["mandatory"]), first["gated"]
        row.analyses = _newest_analyses(measured)
        if row.cells or row.analyses:
            found.append(row)
    return sorted(found, key=lambda row: (row.dataset, -_headline(row), row.defense, row.weights_sha256))


def _headline(row: Row) -> float:
    shares = [row.worst(threat).count("1") / len(row.worst(threat)) for threat in row.ranked_threats()]
    return min(shares, default=row.clean.count("1") / max(1, len(row.clean)))


def _newest_analyses(measured: list[AnalysisRecord]) -> dict[str, dict[str, Quantity]]:
    """Pick the quantities of each analysis id; of several records the highest revision counts, then the most images."""
    ordered = sorted(measured, key=lambda r: (r["identity"]["analysis_revision"], r["identity"]["n"]))
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
