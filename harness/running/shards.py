"""Running attack jobs shard by shard: what is recorded is reused; a failure ends its own cells, and the run goes on."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable

import torch

from harness.data.dataset import LoadedDataset
from harness.data.shard import Shard
from harness.evaluation.attempt import attempt
from harness.evaluation.evaluate import estimate, evaluate
from harness.evaluation.machine import environment
from harness.evaluation.measurement import Refused
from harness.registry.registry import Registry
from harness.reporter import Reporter
from harness.running.job import AttackJob, Span
from harness.running.outcome import Failure, Outcome, Settings
from harness.storage.canonical import digest
from harness.storage.records import cell_record
from harness.storage.runs import Log, RunStore
from harness.storage.schema import CellIdentity
from harness.types import CellState
from harness.witnesses.coverage import exempt
from harness.witnesses.store import WitnessStore


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShardRunner:
    """Runs attack jobs on one dataset. Records go to `store`, the images that broke an example first to `witnesses`."""

    data: LoadedDataset
    registry: Registry
    settings: Settings
    store: RunStore
    witnesses: WitnessStore
    outcome: Outcome
    reporter: Reporter
    device: torch.device

    def do(self, job: AttackJob) -> None:
        """Run what is missing of a job, all its shards in order, until none of its cells is alive."""
        self.reporter.attack_start(job.cells, len(job.owed))
        if self.settings.time_limit is not None:
            deadline = time.monotonic() + self.settings.time_limit
            job.run = dataclasses.replace(job.run, supplies=dataclasses.replace(job.run.supplies, deadline=deadline))
            self._estimate(job, self.settings.time_limit)
        for done, (span, identities) in enumerate(job.owed.items(), 1):
            self._shard(job, span, identities)
            if not job.alive:
                break
            self.reporter.shard_done(job.cells, done, len(job.owed), span[1])
        self.reporter.attack_end(job.cells)

    def _estimate(self, job: AttackJob, limit: float) -> None:
        """Report how long a job will take; one that cannot be done within the limit, in seconds, is not started."""
        spans = [span for span, owed in job.owed.items() if any(self.store.find(digest(one)) is None for one in owed)]
        if not spans:
            return
        sizes = [stop - start for start, stop in spans]
        tried = attempt(lambda: estimate(job.run, Shard.of(self.data, spans[0], self.device), sizes))
        name = f"{job.cells[0].subject.defense} <- {job.cells[-1].attack}"
        if tried.value is None or tried.value <= limit:
            words = "cannot be estimated" if tried.value is None else f"about {tried.value:.0f} s"
            self.reporter.note(f"{name}: {words}, limit {limit:g} s")
            return
        reason = f"about {tried.value:.0f} s, more than the limit of {limit:g} s: not started"
        for index in list(job.alive):
            identity = job.owed[spans[0]][index]
            self._end(job, index, reason, CellState.TIMEOUT, self.store.attempt, identity, {"outcome": reason})

    def _shard(self, job: AttackJob, span: Span, identities: list[CellIdentity]) -> None:
        """Run what is missing of one shard, for the cells that are alive."""
        missing = [index for index in job.alive if self.store.find(digest(identities[index])) is None]
        self.outcome.reused += len(job.alive) - len(missing)
        judge = job.ready.judge
        witnessed = not exempt(identities[0]["threat"], judge.votes, judge.stochastic)
        for index in set(job.alive) - set(missing) if witnessed else ():
            self.witnesses.reuse(digest(identities[index]), identities[index])
        if not missing:
            return
        started = {"started": time.time(), "batch_size": job.run.batch, "host": platform.node()}
        log: dict[str, object] = {**started, **environment(self.device)}
        examples = self.data.order()[slice(*span)].tolist()
        lacking = self.witnesses.lacking(identities[0], examples) if witnessed else None
        run = dataclasses.replace(job.run, cells=[job.cells[index] for index in missing])
        tried = attempt(lambda: evaluate(run, Shard.of(self.data, span, self.device), lacking))
        log["seconds"] = tried.seconds
        if tried.value is None:
            log |= {"outcome": tried.error, "trace": tried.trace}
            for index in missing:
                self._end(job, index, tried.error, tried.state, self.store.attempt, identities[index], log)
                if tried.state == CellState.NOT_APPLICABLE:
                    for promised in job.owed.values():
                        self.store.inapplicable(digest(promised[index]), log)
            return
        log |= {"outcome": "done", "printed": tried.value.printed[-2000:], "batch_size": tried.value.batch}
        for index, result, codes in zip(missing, tried.value.results, tried.value.codes, strict=True):
            identity = identities[index]
            if isinstance(result, Refused):
                refusal = {**log, "outcome": "refused", "identity": identity, "reasons": result.reasons}
                self._end(job, index, str(result), CellState.REFUSED, self.store.refuse, identity, refusal)
                continue
            self.witnesses.keep(digest(identity), identity, codes)
            record = cell_record(identity, job.ready.observed(result, job.attacks[index]))
            self.store.commit(record)
            self.store.attempt(record["key"], log)
            self.outcome.computed += 1
            for line in self.registry.observe(record):
                self.reporter.warn(line)

    def _end(
        self, job: AttackJob, index: int, reason: str, state: CellState, keep: Callable[[str, Log], None],
        identity: CellIdentity, log: Log,
    ) -> None:  # fmt: skip
        """Give a cell its state, log why, and go on without it."""
        keep(digest(identity), log)
        job.alive.remove(index)
        self.outcome.failures.append(Failure.of(job.cells[index], reason, state))
