"""One run: obtain every network, do what is not recorded yet, and go on after failures of single cells."""

from __future__ import annotations

import dataclasses

from harness.data.dataset import LoadedDataset
from harness.evaluation.machine import environment, make_reproducible, pick_device
from harness.models.deployment import Deployer
from harness.planning.plan import Plan
from harness.registry.registry import Registry
from harness.reporter import Reporter
from harness.running.analyses import run_analysis
from harness.running.answers import refuse_others
from harness.running.obtaining import Obtained
from harness.running.outcome import Outcome, Settings
from harness.running.shards import ShardRunner
from harness.storage import atomic
from harness.storage.run_folder import RunDocument
from harness.storage.runs import RunStore
from harness.storage.schema import SCHEMA
from harness.training.trainer import Trainer
from harness.witnesses.store import WitnessStore


def run(plan: Plan, registry: Registry, settings: Settings, reporter: Reporter) -> Outcome:
    """Run the plan. Running it again continues: trainings after their last epoch, attacks after their last shard.

    After Ctrl-C the outcome says `interrupted` and holds what was finished.

    Raises:
        UsageError: where there is no such device.
        StoreError: where the results folder cannot be written.
        CheckpointError, DataError: for given weights or images that cannot be read.
    """
    make_reproducible()
    device = pick_device(settings.device)
    data = LoadedDataset(plan.dataset, plan.dataset_name, settings.data_root, plan.location, plan.everything)
    trainer = Trainer(registry=registry, data=data, folder=settings.checkpoints, device=device, reporter=reporter)
    outcome = Outcome(subjects=plan.subjects, dataset=data.name)
    try:
        atomic.probe(settings.output)
        obtained = Obtained(plan, registry, settings, Deployer(trainer), reporter, outcome)
        _attack(obtained, reporter)
    except KeyboardInterrupt:
        outcome.interrupted = True
    return outcome


def _attack(obtained: Obtained, reporter: Reporter) -> None:
    """Run every job shard by shard, then write the finished records into one file."""
    settings, outcome, device = obtained.settings, obtained.outcome, obtained.deployer.device
    jobs, analyses = list(obtained.attack_jobs()), list(obtained.analysis_jobs())
    keys = [key for job in jobs for key in job.keys] + [job.key for job in analyses]
    if not keys:
        return
    store = RunStore(settings.output, _document(obtained, keys))
    refuse_others(store)
    store.open()
    store.note_environment(environment(device))
    outcome.run = store.path
    witnesses = WitnessStore(store.folder)
    runner = ShardRunner(
        data=obtained.data, registry=obtained.registry, settings=settings, store=store, witnesses=witnesses,
        outcome=outcome, reporter=reporter, device=device,
    )  # fmt: skip
    try:
        for job in jobs:
            runner.do(job)
            if settings.fail_fast and any(failure.state.counts_as_failure for failure in outcome.failures):
                break
        else:
            for analysis in analyses:
                run_analysis(analysis, obtained.deployer, store, outcome)
    finally:
        for line in store.damaged:
            reporter.warn(f"{line} (put aside, computed again)")
        outcome.records = store.compact(keys)
        for line in [*witnesses.merge(outcome.records), *witnesses.damaged]:
            reporter.warn(line)


def _document(obtained: Obtained, keys: list[str]) -> RunDocument:
    """Freeze the plan: what the run covers, and the key of every record it promises."""
    plan, data = obtained.plan, obtained.data
    document: RunDocument = {
        "schema": SCHEMA,
        "dataset": data.name,
        "data_sha256": data.part("test").sha256,
        "n": obtained.n,
        "seed": plan.seed,
        "defenses": [subject.defense for subject in plan.subjects],
        "absent": obtained.absent,
        "attacks": sorted({f"{cell.attack} {cell.threat}" for cell in plan.cells}),
        "skipped": [dataclasses.asdict(skip) for skip in plan.skips],
        "expected": sorted(keys),
    }
    if answers := {subject.defense: given for subject, given in obtained.answers()}:
        document["answers"] = answers
    return document
