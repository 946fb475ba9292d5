"""What a person sees: header, plan, progress and the table. The table goes to stdout, everything else to stderr."""

from __future__ import annotations

import platform
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from harness import __version__, atomic
from harness.cli.options import PIPED_WIDTH
from harness.engine.inline import NOT_APPLICABLE
from harness.errors import UsageError
from harness.leaderboard.analyses import analyses_csv, analysis_lines, short
from harness.leaderboard.rows import Row, rows
from harness.leaderboard.tables import (
    READINGS,
    States,
    attack_columns,
    cell_text,
    flag_notes,
    has_readings,
    has_worst_case,
    percent,
    reading_text,
    sections,
    tidy,
    wide,
    worst_text,
)
from harness.machine import describe, pick_device
from harness.outcome import Interrupted, Outcome
from harness.plan import Plan
from harness.registry import Registry
from harness.reporter import Reporter
from harness.training import EpochReport
from harness.types import Cell, Skip, Subject

PLAIN_SECONDS = 30.0


class Screen(Reporter):
    """Shows progress as bars on a terminal, as lines elsewhere, and turns the first Ctrl-C into a tidy stop."""

    def __init__(self, progress: str) -> None:
        if progress not in ("auto", "plain", "none"):
            raise UsageError(f"--progress {progress}: must be auto, plain or none")
        # The streams are taken now: while an attack runs, sys.stdout and sys.stderr collect what it prints.
        # No markup: the brackets of a name with parameters are to be seen.
        self.out = Console(file=sys.stdout, highlight=False, markup=False)
        self.err = Console(file=sys.stderr, highlight=False, markup=False)
        for console in (self.out, self.err):
            if not console.is_terminal:
                console.width = PIPED_WIDTH
        self.quiet = progress == "none"
        self.bars: Progress | None = None
        if progress == "auto" and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[text]}"))
            self.bars = Progress(
                *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.err, redirect_stdout=False,
                redirect_stderr=False, transient=True,
            )  # fmt: skip
        self.task: TaskID | None = None
        self.last_line = 0.0
        self.started = 0.0
        self.label = ""
        self.epochs = 0
        self.latest = ""
        self.stopping = False

    def __enter__(self) -> Screen:
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars:
            self.bars.stop()
        signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        if self.stopping:
            raise Interrupted
        self.stopping = True
        self.note("stopping after this batch or shard; Ctrl-C again stops at once")

    def _stop_if_asked(self) -> None:
        if self.stopping:
            raise Interrupted

    def note(self, text: str) -> None:
        if not self.quiet:
            (self.bars.console if self.bars else self.err).print(text)

    def warn(self, text: str) -> None:
        (self.bars.console if self.bars else self.err).print(f"warning: {text}")

    def header(self, registry: Registry, device: str) -> None:
        """Versions, device and plugins that are not ours."""
        name = describe(pick_device(device))
        self.note(f"harness {__version__} · python {platform.python_version()} · torch {torch.__version__} · {name}")
        foreign = [str(p.provider) for p in registry.loaded if p.provider.distribution != "adversarial-harness"]
        if foreign or registry.broken:
            self.note(f"plugins: {', '.join(foreign) or 'first-party only'}; {len(registry.broken)} failed")

    def plan(self, plan: Plan, output: Path) -> None:
        """What will run, and what was left out."""
        names = ", ".join(dict.fromkeys(subject.defense for subject in plan.subjects))
        attacks = len({(cell.attack, str(cell.threat)) for cell in plan.cells})
        self.note(f"plan     {plan.dataset_name}: {names} under {attacks} attacks, {len(plan.groups)} runs -> {output}")
        for skip in plan.skips:
            self.note(f"left out {skip.attack} on {skip.defense}: {skip.reason}")

    def train_start(self, subject: Subject, epochs_done: int) -> None:
        self.label = f"train {subject.defense}"
        self.epochs = subject.recipe.epochs if subject.recipe else 0
        self.latest = ""
        self._begin(float(self.epochs), float(epochs_done))

    def train_batch(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        self._stop_if_asked()
        self._advance(epoch + batch / batches, f"epoch {epoch + 1}/{self.epochs} loss {loss:.3f}{self.latest}")

    def train_epoch(self, report: EpochReport) -> None:
        self.latest = f" val clean {100 * report.clean:.1f} robust {100 * report.robust:.1f}"

    def train_end(self) -> None:
        self._finish(self.latest)

    def attack_start(self, cells: tuple[Cell, ...], shards: int) -> None:
        self.label = f"{cells[0].subject.defense} <- {', '.join(cell.attack for cell in cells)}"
        self._begin(float(shards), 0.0)

    def shard_done(self, cells: tuple[Cell, ...], done: int, shards: int, images: int) -> None:
        self._advance(done, f"{images} images")
        self._stop_if_asked()

    def attack_end(self, cells: tuple[Cell, ...]) -> None:
        self._finish("")

    def _begin(self, total: float, done: float) -> None:
        self.started = self.last_line = time.monotonic()
        if self.bars:
            self.task = self.bars.add_task(self.label, total=total, completed=int(done), text="")

    def _advance(self, done: float, text: str) -> None:
        if self.bars and self.task is not None:
            self.bars.update(self.task, completed=done, text=text)
        elif time.monotonic() - self.last_line > PLAIN_SECONDS:
            self.last_line = time.monotonic()
            self.note(f"{self.label}: {text}, {self.last_line - self.started:.0f} s")

    def _finish(self, text: str) -> None:
        if self.bars and self.task is not None:
            self.bars.remove_task(self.task)
            self.task = None
        self.note(f"{self.label}:{text} done in {time.monotonic() - self.started:.1f} s")

    def result(self, outcome: Outcome, skips: Sequence[Skip]) -> None:
        """Print the tables, write them beside the records, and say what to do next."""
        states = {(f.defense, f.attack, f.threat): (f.state, f.reason) for f in outcome.failures}
        found = present(outcome, states)
        for table in tables(found, states):
            self.out.print(table)
        if measured := analysis_lines(found):
            self.out.print(_analyses(measured))
        for line in flag_notes(found):
            self.out.print(f"flag  {line}")
        for (defense, attack, _), (state, reason) in sorted(states.items()):
            self.out.print(f"{state}  {attack} on {defense}: {reason}")
        states |= {(skip.defense, skip.attack, ""): (NOT_APPLICABLE, skip.reason) for skip in skips}
        counts = f"{outcome.computed} shards computed, {outcome.reused} reused"
        failed = sum(failure.state != NOT_APPLICABLE for failure in outcome.failures)
        left = len(skips) + len(outcome.failures) - failed
        self.note(f"{counts}, {failed} cells without a number, {left} left out")
        if outcome.run is not None:
            self._write(outcome.run, found, states)
        if outcome.interrupted:
            self.note("interrupted: finished epochs and shards are kept; run the same command to go on")

    def _write(self, run: Path, found: Sequence[Row], states: States) -> None:
        atomic.replace(run / "table.csv", tidy(found, states).encode())
        atomic.replace(run / "table.md", wide(found, states).encode())
        if analyses := analyses_csv(found):
            atomic.replace(run / "analyses.csv", analyses.encode())
        self.note(f"wrote {run}/records.jsonl, table.csv, table.md   next: harness leaderboard build BOARD --add {run}")


def present(outcome: Outcome, states: States) -> list[Row]:
    """The rows of a run: only cells that are whole, and a row without cells for each defense that has none."""
    named = ("defense", "attack", "threat")
    found = rows(r for r in outcome.records if tuple(r["identity"].get(name) for name in named) not in states)
    for subject in outcome.subjects:
        if subject.defense not in {row.defense for row in found}:
            empty = Row(
                dataset=outcome.dataset, data_sha256="", defense=subject.defense, arch=subject.arch,
                recipe=subject.recipe.name if subject.recipe else "own", train_seed=subject.train_seed,
                weights_sha256="",
            )  # fmt: skip
            found.append(empty)
    return found


def tables(found: Sequence[Row], states: States) -> list[Table]:
    """One table for each dataset and threat model: an attack a line, a defense a column."""
    return [_table(dataset, threat, here, states) for dataset, threat, here in sections(found, states)]


def _analyses(lines: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="analyses", title_justify="left")
    shown = ("defense", "analysis", "quantity", "value", "unit", "n")
    for name in shown:
        table.add_column(name, justify="right" if name in ("value", "n") else "left")
    for line in lines:
        table.add_row(*[str({**line, "value": short(line)}[name]) for name in shown])
    return table


def _table(dataset: str, threat: str, found: Sequence[Row], states: States) -> Table:
    title = f"{dataset}, {threat}: per cent still correct, 95 % interval"
    table = Table(title=title, title_justify="left")
    table.add_column("attack")
    for row in found:
        table.add_column(f"{row.defense}\n{row.arch}, {row.recipe}", justify="right")
    table.add_row("clean", *[percent(row.clean) for row in found])
    for attack in attack_columns(found, threat, states):
        if threat != "none":
            table.add_row(attack, *[cell_text(row, attack, threat, states) for row in found])
    if has_worst_case(found, threat):
        table.add_section()
        for reading in READINGS if has_readings(found, threat) else ():
            table.add_row(f"worst, {reading}", *[reading_text(row, threat, reading) for row in found])
        table.add_row("worst case", *[worst_text(row, threat, states) for row in found], style="bold")
    return table
