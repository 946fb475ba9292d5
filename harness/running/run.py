"""The one loop: obtain each subject, run what is not recorded yet, keep every failure where it happened."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.data.dataset import LoadedDataset, shards
from harness.data.shard import Shard
from harness.errors import CheckpointError
from harness.evaluation.attempt import NOT_APPLICABLE, attempt
from harness.evaluation.context import Supplies
from harness.evaluation.evaluate import estimate, evaluate
from harness.evaluation.judge import REVISION as JUDGE_REVISION
from harness.evaluation.machine import environment, make_reproducible, pick_device
from harness.evaluation.measurement import Measurement, Refused
from harness.models.deployment import Deployer, Deployment
from harness.planning.plan import Plan
from harness.registry.registry import Registry
from harness.reporter import Reporter
from harness.running.analyses import Analyses
from harness.running.outcome import Failure, Outcome, Settings
from harness.storage import atomic, records
from harness.storage.canonical import digest
from harness.storage.runs import RunStore
from harness.training.trainer import Trainer
from harness.types import Attack, Cell
from harness.witnesses.coverage import exempt
from harness.witnesses.store import WitnessStore


@dataclass(slots=True, kw_only=True)
class _Job:
    """One attack run on one subject, and the identities of the records it owes for each shard.

    `alive`: the cells that have neither failed nor been refused so far.
    """

    cells: tuple[Cell, ...]
    attacks: tuple[Attack, ...]
    ready: Deployment
    supplies: Supplies
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
        self.n = plan.images(len(self.test))
        self.outcome = Outcome(subjects=plan.subjects, dataset=self.data.name)
        self.deployer = Deployer(
            Trainer(
                registry=registry, data=self.data, folder=settings.checkpoints, device=self.device, reporter=reporter
            )
        )
        self.ready: list[Deployment | None] = []
        self.absent: list[str] = []

    def obtain(self) -> None:
        """Get the network of every subject; one that cannot be had fails its own cells only."""
        atomic.probe(self.settings.output)
        for subject in self.plan.subjects:
            tried = attempt(partial(self.deployer.deploy, subject), but=(CheckpointError,) if subject.weights else ())
            if tried.value is None:
                self.absent.append(subject.defense)
                self.reporter.warn(f"{subject.defense}: {tried.error}")
                self.outcome.failures += [
                    Failure.of(c, tried.error, tried.state) for c in self.plan.cells if c.subject == subject
                ]
            self.ready.append(tried.value)

    def attack(self) -> None:
        """Do every job shard by shard, then write the finished records into one file."""
        jobs = list(self._jobs())
        analyses = Analyses(self.plan, self.registry, self.deployer, self.ready, self.n)
        keys = [digest(head) for job in jobs for heads in job.heads.values() for head in heads]
        keys += analyses.keys
        if not keys:
            return
        store = RunStore(self.settings.output, _document(self.plan, self.data, self.n, keys, self.absent))
        store.open()
        store.note_environment(environment(self.device))
        self.outcome.run = store.path
        self.witnesses = WitnessStore(store.path)
        try:
            for job in jobs:
                self._do(job, store)
                if self.settings.fail_fast and any(f.state != NOT_APPLICABLE for f in self.outcome.failures):
                    break
            else:
                analyses.run(store, self.outcome)
        finally:
            for line in store.damaged:
                self.reporter.warn(f"{line} (put aside, computed again)")
            self.outcome.records = store.compact(keys)
            for line in [*self.witnesses.merge(self.outcome.records), *self.witnesses.damaged]:
                self.reporter.warn(line)

    def _jobs(self) -> Iterator[_Job]:
        for cells in self.plan.groups:
            ready = self.ready[self.plan.subjects.index(cells[0].subject)]
            if ready is None:
                continue
            entries = [self.registry.entry(Attack, cell.attack) for cell in cells]
            tried = attempt(partial(self._supply, cells[0], entries[0].spec))
            if tried.value is None:
                self.outcome.failures += [Failure.of(cell, tried.error) for cell in cells]
                self.absent.append(f"what {cells[0].attack} needs on {cells[0].subject.defense}")
                continue
            supplies, hashes = tried.value
            heads = {
                (start, stop): [
                    records.identity(
                        cell,
                        entry.spec,
                        entry.provider.origin,
                        ready.provenance,
                        JUDGE_REVISION,
                        start,
                        stop,
                        hashes,
                        self.plan.kinds[cell.threat.kind].spec,
                    )
                    for cell, entry in zip(cells, entries, strict=True)
                ]
                for start, stop in shards(self.n)
            }
            attacks, alive = tuple(entry.spec for entry in entries), list(range(len(cells)))
            yield _Job(cells=cells, attacks=attacks, ready=ready, supplies=supplies, heads=heads, alive=alive)

    def _supply(self, cell: Cell, attack: Attack) -> tuple[Supplies, dict[str, str]]:
        """What an attack asks for besides the model, and the sha256 of each."""
        cache = self.settings.output / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        found = self.ready[self.plan.subjects.index(cell.subject)]
        supplies, hashes = Supplies(cache_dir=cache, stand_ins=found.checkpoint.stand_ins if found else {}), {}
        if cell.surrogate is not None:
            network, hashes["surrogate"] = self.deployer.surrogate(cell.surrogate)
            supplies = dataclasses.replace(supplies, surrogate=network)
        if "train_images" in attack.needs:
            train = self.data.part("train")
            hashes["train_images"] = train.sha256
            supplies = dataclasses.replace(supplies, train=train)
        return supplies, hashes

    def _do(self, job: _Job, store: RunStore) -> None:
        self.reporter.attack_start(job.cells, len(job.heads))
        if self.settings.time_limit is not None:
            job.supplies = dataclasses.replace(job.supplies, deadline=time.monotonic() + self.settings.time_limit)
            self._estimate(job, store)
        for done, (span, heads) in enumerate(job.heads.items(), 1):
            self._shard(job, span, heads, store)
            if not job.alive:
                break
            self.reporter.shard_done(job.cells, done, len(job.heads), span[1])
        self.reporter.attack_end(job.cells)

    def _estimate(self, job: _Job, store: RunStore) -> None:
        """Say how long a job will take; one that cannot be done within the limit is not started."""
        limit = float(self.settings.time_limit or 0)
        spans = [span for span, heads in job.heads.items() if any(store.find(digest(head)) is None for head in heads)]
        if not spans:
            return
        kind = self.plan.kinds[job.cells[0].threat.kind].spec
        batch = self.settings.batch_size

        def expected() -> float:
            shard = Shard.of(self.data, spans[0], self.device)
            sizes = [stop - start for start, stop in spans]
            return estimate(job.ready.judge, shard, job.attacks[0], job.cells, kind, batch, job.supplies, sizes)

        tried = attempt(expected)
        name = f"{job.cells[0].subject.defense} <- {job.cells[-1].attack}"
        if tried.value is None or tried.value <= limit:
            words = "cannot be estimated" if tried.value is None else f"about {tried.value:.0f} s"
            self.reporter.note(f"{name}: {words}, limit {limit:g} s")
            return
        reason = f"about {tried.value:.0f} s, more than the limit of {limit:g} s: not started"
        for index in list(job.alive):
            head = job.heads[spans[0]][index]
            self._end(job, index, reason, "timeout", store.attempt, head, {"outcome": reason})

    def _shard(self, job: _Job, span: tuple[int, int], heads: list[records.Record], store: RunStore) -> None:
        """Do what is missing of one shard, for the cells that are alive."""
        missing = [index for index in job.alive if store.find(digest(heads[index])) is None]
        self.outcome.reused += len(job.alive) - len(missing)
        judge = job.ready.judge
        witnessed = not exempt(heads[0]["threat"], judge.passes, judge.stochastic)
        for index in set(job.alive) - set(missing) if witnessed else ():
            self.witnesses.reuse(digest(heads[index]), heads[index])
        if not missing:
            return
        cells = [job.cells[index] for index in missing]
        log = {"started": time.time(), "batch_size": self.settings.batch_size, "host": platform.node()}
        log |= environment(self.device)
        kind = self.plan.kinds[cells[0].threat.kind].spec
        batch = self.settings.batch_size
        lacking = self.witnesses.lacking(heads[0], self.order[slice(*span)].tolist()) if witnessed else None
        tried = attempt(
            lambda: evaluate(
                judge, Shard.of(self.data, span, self.device), job.attacks[0], cells, kind, batch, job.supplies, lacking
            )
        )
        log["seconds"] = tried.seconds
        if tried.value is None:
            log |= {"outcome": tried.error, "trace": tried.trace}
            for index in missing:
                self._end(job, index, tried.error, tried.state, store.attempt, heads[index], log)
                if tried.state == NOT_APPLICABLE:
                    for promised in job.heads.values():
                        store.inapplicable(digest(promised[index]), log)
            return
        log |= {"outcome": "done", "printed": tried.value.printed[-2000:], "batch_size": tried.value.batch}
        for index, result, codes in zip(missing, tried.value.results, tried.value.codes, strict=True):
            if isinstance(result, Refused):
                refusal = {**log, "outcome": "refused", "identity": heads[index], "reasons": result.reasons}
                self._end(job, index, str(result), "refused", store.refuse, heads[index], refusal)
            else:
                self.witnesses.keep(digest(heads[index]), heads[index], codes)
                self._keep(heads[index], job, job.attacks[index], result, store, log)

    def _end(
        self, job: _Job, index: int, reason: str, state: str, keep: Callable[[str, records.Record], None],
        head: records.Record, log: dict[str, Any],
    ) -> None:  # fmt: skip
        """Give a cell its state, log why, and go on without it."""
        keep(digest(head), log)
        job.alive.remove(index)
        self.outcome.failures.append(Failure.of(job.cells[index], reason, state))

    def _keep(
        self, head: records.Record, job: _Job, attack: Attack, result: Measurement, store: RunStore,
        log: dict[str, Any],
    ) -> None:  # fmt: skip
        value = records.record(head, job.ready.outcome(result, attack))
        store.commit(value)
        store.attempt(digest(head), log)
        self.outcome.computed += 1
        for line in self.registry.observe(value):
            self.reporter.warn(line)


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
