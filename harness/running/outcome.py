"""How a run is to go, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harness.storage.records import Record
from harness.types import Cell, Subject


class Interrupted(KeyboardInterrupt):
    """The user asked to stop; everything finished is on disk."""


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
        """Where trained weights are kept."""
        return self.output / "checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A cell without a number, and why: `failed`, `timeout`, `not applicable`, or `refused` by verification."""

    defense: str
    attack: str
    threat: str
    state: str
    reason: str

    @classmethod
    def of(cls, cell: Cell, reason: str, state: str = "failed") -> Failure:
        """The failure of a cell."""
        threat = str(cell.threat)
        return cls(defense=cell.subject.defense, attack=cell.attack, threat=threat, state=state, reason=reason)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a run came to: its folder, every finished record, and what failed."""

    dataset: str = ""
    run: Path | None = None
    records: list[Record] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    subjects: list[Subject] = field(default_factory=list)
    reused: int = 0
    computed: int = 0
    interrupted: bool = False
