"""What a run or a board says: the screen, the files beside the records and notebooks show this and nothing else."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.leaderboard.analyses import ANALYSIS_COLUMNS, analyses_csv, analysis_lines
from harness.leaderboard.tables import (
    States,
    attack_columns,
    cell_text,
    flag_notes,
    has_worst_case,
    percent,
    refused_attacks,
    sections,
    wide,
    worst_text,
)
from harness.leaderboard.tidy import tidy, tidy_frame
from harness.results import audit
from harness.results.rows import Row, rows
from harness.running.outcome import Failure, Outcome
from harness.storage import atomic
from harness.storage.run_folder import RunFolder
from harness.storage.schema import is_cell
from harness.types import CellState, Skip

if TYPE_CHECKING:
    import pandas as pd

WORST_CASE = "worst case"
NUMBERS = (
    "seed", "train_seed", "n", "split_size", "clean", "robust", "robust_low", "robust_high", "last", "raw",
    "median_distance", "forwards", "backwards", "attack_revision",
)  # fmt: skip
"""The columns of a tidy table that hold numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Rows of measured networks, and the cells without a number.

    `path`: the folder that the records are in. `failures`: cells without a number, with the reason. `skips`: what was
    asked for and does not apply. Both are known of a run that was just made; of one that is loaded, its table.csv says.
    """

    rows: Sequence[Row]
    path: Path | None = None
    failures: Sequence[Failure] = ()
    skips: Sequence[Skip] = ()

    @property
    def states(self) -> States:
        """The states of the cells without a number, with the reasons."""
        return {(f.defense, f.attack, f.threat): (f.state, f.reason) for f in self.failures}

    def table(self) -> pd.DataFrame:
        """Show what the screen shows: attacks by defenses, numbers in per cent with their 95 % interval, as text."""
        import pandas as pd

        lines: dict[tuple[str, str, str], dict[str, str]] = {}
        names, states = self._names(), self.states
        for dataset, threat, here in sections(self.rows, states):
            lines[dataset, threat, "clean"] = {names[id(row)]: percent(row.clean) for row in here}
            for attack in attack_columns(here, threat, states) if threat != "none" else ():
                lines[dataset, threat, attack] = {
                    names[id(row)]: cell_text(row, attack, threat, states) for row in here
                }
            if has_worst_case(here, threat):
                lines[dataset, threat, WORST_CASE] = {names[id(row)]: worst_text(row, threat, states) for row in here}
        frame = pd.DataFrame(
            lines.values(), index=pd.MultiIndex.from_tuples(lines, names=["dataset", "threat", "attack"])
        )
        return frame.fillna("")

    def cells(self) -> pd.DataFrame:
        """List every cell, a line each: names, parameters, accuracies in per cent, cost, flags and state."""
        frame = self._numbers()
        return frame[frame["attack"] != WORST_CASE].reset_index(drop=True)

    def worst_case(self) -> pd.DataFrame:
        """List the worst case of each row and threat model with a budget: per cent robust, interval, n and rank.

        `knowledge` is empty for the worst case over all attackers.
        """
        frame = self._numbers()
        shown = [
            "dataset", "threat", "defense", "arch", "recipe", "train_seed", "knowledge", "robust", "robust_low",
            "robust_high", "n", "clean", "rank", "state", "weights_sha256",
        ]  # fmt: skip
        return frame.loc[frame["attack"] == WORST_CASE, shown].fillna({"knowledge": ""}).reset_index(drop=True)

    @property
    def flags(self) -> dict[str, dict[str, str]]:
        """What the records themselves say against a number: row -> flag -> evidence."""
        names = self._names()
        return {names[id(row)]: audit.flags(row, refused_attacks(row, self.states)) for row in self.rows}

    @property
    def flag_lines(self) -> list[str]:
        """The flags as lines to read, rows with the same evidence together."""
        return flag_notes(self.rows, self.states)

    def analyses(self) -> pd.DataFrame:
        """List what was measured besides accuracy: a line for each quantity, with its unit and n."""
        import pandas as pd

        frame = pd.DataFrame(analysis_lines(self.rows), columns=list(ANALYSIS_COLUMNS))
        frame["value"] = pd.to_numeric(frame["value"], errors="coerce")
        return frame

    def write(self, folder: RunFolder) -> None:
        """Write table.csv, table.md and, where there are any, analyses.csv beside the records."""
        states = self._every_state()
        atomic.replace(folder.table_csv, tidy(self.rows, states).encode())
        atomic.replace(folder.table_md, wide(self.rows, states).encode())
        if analyses := analyses_csv(self.rows):
            atomic.replace(folder.analyses_csv, analyses.encode())

    def _numbers(self) -> pd.DataFrame:
        import pandas as pd

        frame = tidy_frame(self.rows, self._every_state())
        for name in NUMBERS:
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
        return frame.fillna({"reason": "", "flags": ""})

    def _every_state(self) -> States:
        """The states of cells without a number, those that were left out included."""
        left_out = {(skip.defense, skip.attack, ""): (CellState.NOT_APPLICABLE, skip.reason) for skip in self.skips}
        return {**self.states, **left_out}

    def _names(self) -> dict[int, str]:
        """Name each row apart: by its defense, where several share that with network and recipe, then with weights."""
        told = {id(row): row.name for row in self.rows}
        for more in (
            {id(row): f"{row.arch}, {row.recipe}" for row in self.rows},
            {id(row): f"weights {row.weights_sha256[:8]}" for row in self.rows},
        ):
            counts = Counter(told.values())
            told = {key: f"{name} ({more[key]})" if counts[name] > 1 else name for key, name in told.items()}
        return told

    def _repr_html_(self) -> str:
        notes = [f"flag: {line}" for line in self.flag_lines]
        notes += [f"{state}: {a} on {d}: {why}" for (d, a, _), (state, why) in sorted(self._every_state().items())]
        notes += [f"records: {self.path}"] if self.path else []
        listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        measured = self.analyses().to_html() if any(row.analyses for row in self.rows) else ""
        return f"{self.table().to_html()}{measured}<ul>{listed}</ul>"


def report_of(outcomes: Iterable[Outcome], skips: Sequence[Skip] = ()) -> Report:
    """Make the report of one run, or of the runs that one board asked for."""
    outcomes = list(outcomes)
    failures = [failure for outcome in outcomes for failure in outcome.failures]
    lost = {(f.defense, f.attack, f.threat) for f in failures}
    return Report(
        rows=[row for outcome in outcomes for row in _present(outcome, lost)], failures=failures, skips=skips,
        path=next((outcome.run for outcome in reversed(outcomes) if outcome.run is not None), None),
    )  # fmt: skip


def _present(outcome: Outcome, lost: Collection[tuple[str, str, str]]) -> list[Row]:
    """Make the rows of a run: only cells that are whole, and a row without cells for each defense that has none."""
    whole = []
    for record in outcome.records:
        if is_cell(record):
            identity = record["identity"]
            if (identity["defense"], identity["attack"], identity["threat"]) in lost:
                continue
        whole.append(record)
    found = rows(whole)
    for subject in outcome.subjects:
        if subject.defense not in {row.defense for row in found}:
            empty = Row(
                dataset=outcome.dataset, data_sha256="", defense=subject.defense, arch=subject.arch,
                recipe=subject.recipe.name if subject.recipe else "own", train_seed=subject.train_seed,
                weights_sha256="", probes=outcome.probes.get(subject.defense, {}),
            )  # fmt: skip
            found.append(empty)
    return found
