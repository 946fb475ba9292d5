"""What a run has to do, in pieces that know everything they need."""

from __future__ import annotations

from dataclasses import dataclass

from harness.evaluation.evaluate import AttackRun
from harness.models.deployment import Deployment
from harness.planning.plan import PlannedAnalysis
from harness.storage.canonical import digest
from harness.storage.schema import AnalysisIdentity, CellIdentity
from harness.types import Analysis, Attack, Cell

Span = tuple[int, int]


@dataclass(slots=True, kw_only=True)
class AttackJob:
    """One attack run on one subject, and the identities of the records that it owes: for each shard, one for each cell.

    `attacks`: that of each cell. `alive`: the numbers of the cells that have neither failed nor been refused so far.
    """

    run: AttackRun
    attacks: tuple[Attack, ...]
    ready: Deployment
    owed: dict[Span, list[CellIdentity]]
    alive: list[int]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of the run, which differ in the attack's prefix parameter only."""
        return tuple(self.run.cells)

    @property
    def keys(self) -> list[str]:
        """The keys of the records that it owes, for all shards and cells."""
        return [digest(identity) for identities in self.owed.values() for identity in identities]


@dataclass(slots=True, kw_only=True)
class AnalysisJob:
    """One analysis of one subject, and the identity of the record it owes."""

    planned: PlannedAnalysis
    analysis: Analysis
    ready: Deployment
    owed: AnalysisIdentity

    @property
    def key(self) -> str:
        """The key of the record that it owes."""
        return digest(self.owed)
