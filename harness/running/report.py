"""What a run or a board says: the screen, the files beside the records and notebooks show this and nothing else."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
from harness.results.naming import tell_apart
from harness.results.rows import Row, rows
from harness.running.outcome import Failure, Outcome
from harness.storage import atomic
from harness.storage.run_folder import RunFolder
from harness.storage.schema import Record, is_cell, recipe_name
from harness.types import CellState, Skip, Subject

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
        states = self.states
        for dataset, threat, here in sections(self.rows, states):
            lines[dataset, threat, "clean"] = {row.name: percent(row.clean) for row in here}
            for attack in attack_columns(here, threat, states) if threat != "none" else ():
                lines[dataset, threat, attack] = {row.name: cell_text(row, attack, threat, states) for row in here}
            if has_worst_case(here, threat):
                lines[dataset, threat, WORST_CASE] = {row.name: worst_text(row, threat, states) for row in here}
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
            "robust_high", "n", "clean", "rank", "state", "weights_sha256", "data_sha256",
        ]  # fmt: skip
        return frame.loc[frame["attack"] == WORST_CASE, shown].fillna({"knowledge": ""}).reset_index(drop=True)

    @property
    def flags(self) -> dict[str, dict[str, str]]:
        """What the records themselves say against a number: row -> flag -> evidence."""
        return {row.name: audit.flags(row, refused_attacks(row, self.states)) for row in self.rows}

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

    def _repr_html_(self) -> str:
        notes = [f"flag: {line}" for line in self.flag_lines]
        notes += [f"{state}: {a} on {d}: {why}" for (d, a, _), (state, why) in sorted(self._every_state().items())]
        notes += [f"records: {self.path}"] if self.path else []
        listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        measured = self.analyses().to_html() if any(row.analyses for row in self.rows) else ""
        return f"{self.table().to_html()}{measured}<ul>{listed}</ul>"


def report_of(outcomes: Iterable[Outcome], skips: Sequence[Skip] = ()) -> Report:
    """Make the report of one run, or of the runs that one board asked for.

    Of several runs the same network on the same images is one row, and a failure belongs to the row of its own run.
    """
    outcomes = list(outcomes)
    whole = [_whole(outcome) for outcome in outcomes]
    found = rows(record for records in whole for record in records)
    known = {row.key: row for row in found}
    own: list[dict[str, Row]] = []
    for outcome, records in zip(outcomes, whole, strict=True):
        here = {name: known[row.key] for row in rows(records) for name in (row.defense, *row.also)}
        for subject in outcome.subjects:
            if subject.defense not in here:
                here[subject.defense] = _without(outcome, subject, found)
        own.append(here)
    tell_apart(found)
    failures = [
        replace(failure, defense=here[failure.defense].name if failure.defense in here else failure.defense)
        for outcome, here in zip(outcomes, own, strict=True)
        for failure in outcome.failures
    ]
    path = next((outcome.run for outcome in reversed(outcomes) if outcome.run is not None), None)
    return Report(rows=found, path=path, failures=failures, skips=skips)


def _whole(outcome: Outcome) -> list[Record]:
    """Pick the records of a run but for those of cells that have no number."""
    lost = {(f.defense, f.attack, f.threat) for f in outcome.failures}
    return [
        record
        for record in outcome.records
        if not is_cell(record)
        or (record["identity"]["defense"], record["identity"]["attack"], record["identity"]["threat"]) not in lost
    ]


def _without(outcome: Outcome, subject: Subject, found: list[Row]) -> Row:
    """Find the row of a subject that has no record in its run: one of another run, or a new one without cells."""
    recipe = recipe_name(subject)
    wanted = (outcome.data_sha256, subject.defense, subject.arch, recipe, subject.train_seed)
    for row in found:
        if (row.data_sha256, row.defense, row.arch, row.recipe, row.train_seed) == wanted:
            return row
    empty = Row(
        dataset=outcome.dataset, data_sha256=outcome.data_sha256, defense=subject.defense, arch=subject.arch,
        recipe=recipe, train_seed=subject.train_seed, weights_sha256="",
        probes=outcome.probes.get(subject.defense, {}),
    )  # fmt: skip
    found.append(empty)
    return empty
