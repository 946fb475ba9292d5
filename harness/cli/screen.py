"""What a person sees while work goes on: header, plan and progress. Tables go to `out`, everything else to `err`."""

from __future__ import annotations

import platform
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.cli.options import PIPED_WIDTH
from harness.errors import UsageError
from harness.evaluation.machine import describe, pick_device
from harness.planning.plan import Plan
from harness.registry.registry import Registry
from harness.reporter import EpochReport, Reporter
from harness.running.outcome import Interrupted
from harness.types import Cell, Subject
from harness.version import __version__

PLAIN_SECONDS = 30.0


@dataclass(slots=True, kw_only=True)
class _Running:
    """A training or an attack under way. `latest`: what its last epoch came to."""

    label: str
    started: float
    last_line: float
    bar: TaskID | None
    epochs: int = 0
    latest: str = ""


class Screen(Reporter):
    """A reporter that shows progress as bars on a terminal, as lines elsewhere.

    While it is entered it turns the first Ctrl-C into a tidy stop; the second one stops at once.
    """

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
        self.running: list[_Running] = []
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
        """Print versions, device and plugins that are not ours."""
        name = describe(pick_device(device))
        self.note(f"harness {__version__} · python {platform.python_version()} · torch {torch.__version__} · {name}")
        foreign = [str(p.provider) for p in registry.loaded if p.provider.distribution != "adversarial-harness"]
        if foreign or registry.broken:
            self.note(f"plugins: {', '.join(foreign) or 'first-party only'}; {len(registry.broken)} failed")

    def plan(self, plan: Plan, output: Path) -> None:
        """Print what will run, and what was left out."""
        names = ", ".join(dict.fromkeys(subject.defense for subject in plan.subjects))
        attacks = len({(cell.attack, str(cell.threat)) for cell in plan.cells})
        self.note(f"plan     {plan.dataset_name}: {names} under {attacks} attacks, {len(plan.groups)} runs -> {output}")
        for skip in plan.skips:
            self.note(f"left out {skip.attack} on {skip.defense}: {skip.reason}")

    def train_start(self, subject: Subject, epochs_done: int) -> None:
        epochs = subject.recipe.epochs if subject.recipe else 0
        self._begin(f"train {subject.defense}", float(epochs), float(epochs_done))
        self.running[-1].epochs = epochs

    def train_batch(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        self._stop_if_asked()
        now = self.running[-1]
        self._advance(epoch + batch / batches, f"epoch {epoch + 1}/{now.epochs} loss {loss:.3f}{now.latest}")

    def train_epoch(self, report: EpochReport) -> None:
        self.running[-1].latest = f" val clean {100 * report.clean:.1f} robust {100 * report.robust:.1f}"

    def train_end(self) -> None:
        self._finish()

    def attack_start(self, cells: tuple[Cell, ...], shards: int) -> None:
        # A training that failed never ended.
        while self.running:
            self._remove()
        label = f"{cells[0].subject.defense} <- {', '.join(cell.attack for cell in cells)}"
        self._begin(label, float(shards), 0.0)

    def shard_done(self, cells: tuple[Cell, ...], done: int, shards: int, images: int) -> None:
        self._advance(done, f"{images} images")
        self._stop_if_asked()

    def attack_end(self, cells: tuple[Cell, ...]) -> None:
        self._finish()

    def _begin(self, label: str, total: float, done: float) -> None:
        """Start to show a training or an attack; a training may start another one, of a network beside its own."""
        bar = self.bars.add_task(label, total=total, completed=int(done), text="") if self.bars else None
        now = time.monotonic()
        self.running.append(_Running(label=label, started=now, last_line=now, bar=bar))

    def _advance(self, done: float, text: str) -> None:
        now = self.running[-1]
        if self.bars and now.bar is not None:
            self.bars.update(now.bar, completed=done, text=text)
        elif time.monotonic() - now.last_line > PLAIN_SECONDS:
            now.last_line = time.monotonic()
            self.note(f"{now.label}: {text}, {now.last_line - now.started:.0f} s")

    def _finish(self) -> None:
        ended = self._remove()
        self.note(f"{ended.label}:{ended.latest} done in {time.monotonic() - ended.started:.1f} s")

    def _remove(self) -> _Running:
        ended = self.running.pop()
        if self.bars and ended.bar is not None:
            self.bars.remove_task(ended.bar)
        return ended
