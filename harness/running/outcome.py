"""How a run is to go, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harness.storage.schema import Record
from harness.types import Cell, CellState, Subject


class Interrupted(KeyboardInterrupt):
    """Raised where the user asked to stop; everything finished is on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to run, none of which may change a verdict. `time_limit`: seconds for each attack run on each defense."""

    output: Path = Path("results")
    data_root: Path = Path("data")
    device: str = "auto"
    batch_size: int = 250
    time_limit: float | None = None
    fail_fast: bool = False

    @property
    def checkpoints(self) -> Path:
        """The folder where trained weights are kept."""
        return self.output / "checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A cell or an analysis without a number, and why; `threat` is `none` for an analysis."""

    defense: str
    attack: str
    threat: str
    state: CellState
    reason: str

    @classmethod
    def of(cls, cell: Cell, reason: str, state: CellState = CellState.FAILED) -> Failure:
        """Make the failure of a cell, with the reason why it has no number."""
        threat = str(cell.threat)
        return cls(defense=cell.subject.defense, attack=cell.attack, threat=threat, state=state, reason=reason)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a run came to: its folder, every finished record, and what failed.

    `data_sha256`: of the test images. `probes`: defense -> what was measured of its network before any attack.
    """

    dataset: str = ""
    data_sha256: str = ""
    run: Path | None = None
    records: list[Record] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    subjects: list[Subject] = field(default_factory=list)
    probes: dict[str, dict[str, float]] = field(default_factory=dict)
    reused: int = 0
    computed: int = 0
    interrupted: bool = False
