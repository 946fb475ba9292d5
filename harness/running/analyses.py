"""Running analyses: what is recorded is reused; a failure is logged and noted, and the run goes on."""

from __future__ import annotations

import platform
import time

from harness.evaluation.attempt import attempt
from harness.evaluation.machine import environment
from harness.models.analysis import measure
from harness.models.deployment import Deployer
from harness.registry.names import plain
from harness.running.job import AnalysisJob
from harness.running.outcome import Failure, Outcome
from harness.storage.records import analysis_record
from harness.storage.runs import RunStore
from harness.storage.schema import AnalysisObserved
from harness.types import CellState


def run_analysis(job: AnalysisJob, deployer: Deployer, store: RunStore, outcome: Outcome) -> None:
    """Run one analysis and store its record, unless the record is there already; a failure goes into `outcome`."""
    subject = job.planned.subject
    if store.find(job.key) is not None:
        outcome.reused += 1
        return
    log = {"started": time.time(), "host": platform.node(), **environment(deployer.device)}
    params = {name: plain(value) for name, value in job.planned.params.items()}

    def work() -> AnalysisObserved:
        ctx = deployer.analysis_context(subject, job.ready, job.owed["n"])
        found = measure(job.analysis, ctx, params, job.owed["seed"])
        job.ready.judge.check_unchanged()
        return found

    tried = attempt(work)
    log["seconds"] = tried.seconds
    if tried.value is None:
        store.attempt(job.key, {**log, "outcome": tried.error, "trace": tried.trace})
        if tried.state == CellState.NOT_APPLICABLE:
            store.inapplicable(job.key, {**log, "outcome": tried.error})
        name = f"analysis {job.planned.analysis}"
        outcome.failures.append(
            Failure(defense=subject.defense, attack=name, threat="none", state=tried.state, reason=tried.error)
        )
        return
    record = analysis_record(job.owed, tried.value)
    store.commit(record)
    store.attempt(job.key, {**log, "outcome": "done"})
    outcome.computed += 1
    for line in deployer.registry.observe(record):
        deployer.trainer.reporter.warn(line)
