"""The one loop: obtain each subject, run what is not recorded yet, keep every failure where it happened."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from harness import atomic, checkpoints, records
from harness.canonical import digest
from harness.data import LoadedDataset, shards
from harness.engine.inline import attempt
from harness.errors import CheckpointError
from harness.evaluate import Measurement, Refused, Shard, evaluate
from harness.judge import REVISION as JUDGE_REVISION
from harness.judge import Judge
from harness.machine import environment, make_reproducible, pick_device
from harness.names import parse_name
from harness.plan import DEFENSE_OWN_NETWORK, Plan
from harness.registry import Registry
from harness.reporter import Reporter
from harness.store import RunStore
from harness.types import Architecture, Attack, Cell, Defense, Subject


class Interrupted(KeyboardInterrupt):
    """The user asked to stop; everything finished is on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to run, none of which may change a verdict."""

    output: Path = Path("results")
    data_root: Path = Path("data")
    device: str = "auto"
    batch_size: int = 250
    fail_fast: bool = False

    @property
    def checkpoints(self) -> Path:
        """Where trained weights are kept."""
        return self.output / "checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A cell without a number, and why: `failed`, or `refused` where verification said no."""

    defense: str
    attack: str
    threat: str
    state: str
    reason: str


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a run came to: its folder, every finished record, and what failed."""

    dataset: str = ""
    run: Path | None = None
    records: list[records.Record] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    subjects: list[Subject] = field(default_factory=list)
    reused: int = 0
    computed: int = 0
    interrupted: bool = False


@dataclass(slots=True, kw_only=True)
class _Ready:
    """A subject whose network is there."""

    judge: Judge
    provenance: records.Provenance
    flags: dict[str, float]


@dataclass(slots=True, kw_only=True)
class _Job:
    """One attack run on one subject, and the identities of the records it owes for each shard.

    `alive`: the cells that have neither failed nor been refused so far.
    """

    cells: tuple[Cell, ...]
    attack: Attack
    ready: _Ready
    heads: dict[tuple[int, int], list[records.Record]]
    alive: list[int]


def bench(plan: Plan, registry: Registry, settings: Settings, reporter: Reporter) -> Outcome:
    """Run the plan. Re-running continues: trainings after their last epoch, attacks after their last shard."""
    make_reproducible()
    run = _Run(plan, registry, settings, reporter)
    try:
        run.obtain()
        run.attack()
    except KeyboardInterrupt:
        run.outcome.interrupted = True
    return run.outcome


class _Run:
    """The state of one call of `bench`."""

    def __init__(self, plan: Plan, registry: Registry, settings: Settings, reporter: Reporter) -> None:
        self.plan, self.registry, self.settings, self.reporter = plan, registry, settings, reporter
        self.device = pick_device(settings.device)
        self.data = LoadedDataset(plan.dataset, plan.dataset_name, settings.data_root, plan.location)
        self.test = self.data.part("test")
        self.order = self.data.order()
        self.n = _limit(plan.limit, len(self.test))
        self.outcome = Outcome(subjects=plan.subjects, dataset=self.data.name)
        self.ready: list[_Ready | None] = []

    def obtain(self) -> None:
        """Get the network of every subject; one that cannot be had fails its own cells only."""
        atomic.probe(self.settings.output)
        for subject in self.plan.subjects:
            tried = attempt(partial(self._obtain, subject), but=(CheckpointError,) if subject.weights else ())
            if tried.value is None:
                self.reporter.warn(f"{subject.defense}: {tried.error}")
                self.outcome.failures += [_failed(c, tried.error) for c in self.plan.cells if c.subject == subject]
            self.ready.append(tried.value)

    def _obtain(self, subject: Subject) -> _Ready:
        start = time.perf_counter()
        folder = self.settings.checkpoints
        found = checkpoints.obtain(subject, self.registry, self.data, folder, self.device, self.reporter)
        seconds = f" in {time.perf_counter() - start:.0f} s" if found.origin in ("trained", "resumed") else ""
        where = f" ({found.path})" if found.path else ""
        self.reporter.note(f"{subject.defense}: weights {found.origin}{seconds}, sha256 {found.sha256[:12]}{where}")
        defense = self.registry.get(Defense, parse_name(subject.defense)[0])
        own = subject.arch == DEFENSE_OWN_NETWORK
        arch = None if own else self.registry.get(Architecture, parse_name(subject.arch)[0])
        provenance = records.Provenance(
            dataset=self.data.name, data_sha256=self.test.sha256, split_size=len(self.test),
            weights_sha256=found.sha256, deployed_sha256=found.deployed_sha256,
            defense_origin=defense.provider.origin, defense_revision=defense.spec.revision,
            mandatory=defense.spec.mandatory, arch_origin=arch.provider.origin if arch else defense.provider.origin,
            arch_revision=arch.spec.revision if arch else defense.spec.revision,
        )  # fmt: skip
        judge = Judge(found.model, self.data.classes, self.data.shape, self.device)
        random = judge.stochastic or defense.spec.stochastic
        return _Ready(judge=judge, provenance=provenance, flags={"stochastic": 1} if random else {})

    def attack(self) -> None:
        """Do every job shard by shard, then write the finished records into one file."""
        jobs = list(self._jobs())
        keys = [digest(head) for job in jobs for heads in job.heads.values() for head in heads]
        if not keys:
            return
        absent = [s.defense for s, ready in zip(self.plan.subjects, self.ready, strict=True) if ready is None]
        store = RunStore(self.settings.output, _document(self.plan, self.data, self.n, keys, absent))
        store.open()
        store.note_environment(environment(self.device))
        self.outcome.run = store.path
        try:
            for job in jobs:
                self._do(job, store)
                if self.settings.fail_fast and self.outcome.failures:
                    break
        finally:
            for line in store.damaged:
                self.reporter.warn(f"{line} (put aside, computed again)")
            self.outcome.records = store.compact(keys)

    def _jobs(self) -> Iterator[_Job]:
        for cells in self.plan.groups:
            ready = self.ready[self.plan.subjects.index(cells[0].subject)]
            if ready is None:
                continue
            entries = [self.registry.get(Attack, parse_name(cell.attack)[0]) for cell in cells]
            heads = {
                (start, stop): [
                    records.identity(
                        cell, entry.spec, entry.provider.origin, ready.provenance, JUDGE_REVISION, start, stop
                    )
                    for cell, entry in zip(cells, entries, strict=True)
                ]
                for start, stop in shards(self.n)
            }
            alive = list(range(len(cells)))
            yield _Job(cells=cells, attack=entries[0].spec, ready=ready, heads=heads, alive=alive)

    def _do(self, job: _Job, store: RunStore) -> None:
        self.reporter.attack_start(job.cells, len(job.heads))
        for done, (span, heads) in enumerate(job.heads.items(), 1):
            self._shard(job, span, heads, store)
            if not job.alive:
                break
            self.reporter.shard_done(job.cells, done, len(job.heads), span[1])
        self.reporter.attack_end(job.cells)

    def _shard(self, job: _Job, span: tuple[int, int], heads: list[records.Record], store: RunStore) -> None:
        """Do what is missing of one shard, for the cells that are alive."""
        missing = [index for index in job.alive if store.find(digest(heads[index])) is None]
        self.outcome.reused += len(job.alive) - len(missing)
        if not missing:
            return
        cells = [job.cells[index] for index in missing]
        log = {"started": time.time(), "batch_size": self.settings.batch_size, "host": platform.node()}
        log |= environment(self.device)
        tried = attempt(lambda: self._measure(job, span, cells))
        log["seconds"] = tried.seconds
        if tried.value is None:
            for index in missing:
                log |= {"outcome": tried.error, "trace": tried.trace}
                self._end(job, index, tried.error, "failed", store.attempt, heads[index], log)
            return
        measured, printed = tried.value
        log |= {"outcome": "done", "printed": printed[-2000:]}
        for index, result in zip(missing, measured, strict=True):
            if isinstance(result, Refused):
                refusal = {**log, "outcome": "refused", "identity": heads[index], "reasons": result.reasons}
                self._end(job, index, str(result), "refused", store.refuse, heads[index], refusal)
            else:
                self._keep(heads[index], job, result, store, log)

    def _end(
        self, job: _Job, index: int, reason: str, state: str, keep: Callable[[str, records.Record], None],
        head: records.Record, log: dict[str, Any],
    ) -> None:  # fmt: skip
        """Give a cell its state, log why, and go on without it."""
        keep(digest(head), log)
        job.alive.remove(index)
        self.outcome.failures.append(_failed(job.cells[index], reason, state))

    def _measure(self, job: _Job, span: tuple[int, int], cells: list[Cell]) -> tuple[list[Measurement | Refused], str]:
        examples = self.order[span[0] : span[1]]
        x, y = self.test.batch(examples, self.device)
        shard = Shard(
            start=span[0], stop=span[1], examples=tuple(int(i) for i in examples), x=x, y=y,
            data_sha256=self.test.sha256,
        )  # fmt: skip
        kind = self.plan.kinds[cells[0].threat.kind].spec
        return evaluate(job.ready.judge, shard, job.attack, cells, kind, self.settings.batch_size)

    def _keep(self, head: records.Record, job: _Job, result: Measurement, store: RunStore, log: dict[str, Any]) -> None:
        observed = {name: value for name, value in dataclasses.asdict(result).items() if value is not None}
        observed["flags"] |= job.ready.flags
        value = records.record(head, observed)
        store.commit(value)
        store.attempt(digest(head), log)
        self.outcome.computed += 1
        for line in self.registry.observe(value):
            self.reporter.warn(line)


def _limit(limit: float | None, size: int) -> int:
    if limit is None:
        return size
    return min(size, max(1, round(limit * size)) if limit < 1 else int(limit))


def _failed(cell: Cell, reason: str, state: str = "failed") -> Failure:
    return Failure(
        defense=cell.subject.defense, attack=cell.attack, threat=str(cell.threat), state=state, reason=reason
    )


def _document(plan: Plan, data: LoadedDataset, n: int, keys: list[str], absent: list[str]) -> records.Record:
    """The frozen plan of a run: what it covers, and the key of every record it promises.

    `absent`: defenses whose network could not be had, so that the run cannot be complete.
    """
    return {
        "schema": records.SCHEMA,
        "dataset": data.name,
        "data_sha256": data.part("test").sha256,
        "n": n,
        "seed": plan.seed,
        "defenses": [subject.defense for subject in plan.subjects],
        "absent": absent,
        "attacks": sorted({f"{cell.attack} {cell.threat}" for cell in plan.cells}),
        "skipped": [dataclasses.asdict(skip) for skip in plan.skips],
        "expected": sorted(keys),
    }
