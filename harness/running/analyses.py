"""The analyses of one run: what they owe, and doing what is not recorded yet."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness.evaluation.attempt import NOT_APPLICABLE, attempt
from harness.evaluation.machine import environment
from harness.models.analysis import measure
from harness.models.deployment import Deployer, Deployment
from harness.planning.plan import Plan, PlannedAnalysis
from harness.registry.names import plain
from harness.registry.registry import Registry
from harness.running.outcome import Failure, Outcome
from harness.storage import records
from harness.storage.canonical import digest
from harness.storage.runs import RunStore
from harness.types import Analysis


@dataclass(slots=True, kw_only=True)
class _Job:
    """One analysis of one subject, and the identity of the record it owes."""

    planned: PlannedAnalysis
    analysis: Analysis
    ready: Deployment
    head: records.Record


class Analyses:
    """Those of a plan whose subjects are there. `ready`: the subjects in the plan's order, None where one is not.

    `n`: how many test images, the first of the fixed order, each of them is given.
    """

    def __init__(
        self, plan: Plan, registry: Registry, deployer: Deployer, ready: Sequence[Deployment | None], n: int
    ) -> None:
        self.deployer, self.n, self.seed = deployer, n, plan.seed
        self.jobs = []
        for planned in plan.analyses:
            found = ready[plan.subjects.index(planned.subject)]
            if found is not None:
                entry = registry.entry(Analysis, planned.analysis)
                head = records.analysis_identity(
                    planned.subject, planned.analysis, planned.params, entry.spec, entry.provider.origin,
                    found.provenance, n, plan.seed,
                )  # fmt: skip
                self.jobs.append(_Job(planned=planned, analysis=entry.spec, ready=found, head=head))

    @property
    def keys(self) -> list[str]:
        """Of the records that they owe."""
        return [digest(job.head) for job in self.jobs]

    def run(self, store: RunStore, outcome: Outcome) -> None:
        """Do what is missing; a failure is kept where it happened."""
        for job in self.jobs:
            self._do(job, store, outcome)

    def _do(self, job: _Job, store: RunStore, outcome: Outcome) -> None:
        key, subject = digest(job.head), job.planned.subject
        if store.find(key) is not None:
            outcome.reused += 1
            return
        log = {"started": time.time(), "host": platform.node(), **environment(self.deployer.device)}
        params = {name: plain(value) for name, value in job.planned.params.items()}

        def work() -> records.Record:
            ctx = self.deployer.analysis_context(subject, job.ready, self.n)
            found = measure(job.analysis, ctx, params, self.seed)
            job.ready.judge.check_unchanged()
            return found

        tried = attempt(work)
        log["seconds"] = tried.seconds
        if tried.value is None:
            store.attempt(key, {**log, "outcome": tried.error, "trace": tried.trace})
            if tried.state == NOT_APPLICABLE:
                store.inapplicable(key, {**log, "outcome": tried.error})
            name = f"analysis {job.planned.analysis}"
            failure = Failure(
                defense=subject.defense, attack=name, threat="none", state=tried.state, reason=tried.error
            )
            outcome.failures.append(failure)
            return
        store.commit(records.record(job.head, tried.value))
        store.attempt(key, {**log, "outcome": "done"})
        outcome.computed += 1
